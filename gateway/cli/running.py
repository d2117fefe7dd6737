"""The running gateway, for commands that call it: where it listens, a key to call it with, why it refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gateway.cli import options
from gateway.cli.output import Refused
from gateway.config.variables import API_KEY_VARIABLE


def gateway_url(config: Path | None) -> str:
    """As the deployment says."""
    from gateway.supervise.parts import local_url

    deployment = options.loaded_deployment(config).deployment
    return local_url(deployment.host, deployment.port)


def api_key(data_dir: Path) -> str:
    """The key of the environment, or the one that the first start left in the data directory."""
    first_key = data_dir.expanduser() / "run" / "first_key"
    key = os.environ.get(API_KEY_VARIABLE) or (first_key.read_text().strip() if first_key.is_file() else "")
    if not key:
        raise Refused(f"no API key: set {API_KEY_VARIABLE}, or make a key with `sparkgate keys create`")
    return key


def reason(answer: Any) -> str:
    """The message of an OpenAI-shaped error, or the start of whatever came instead."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:200]
