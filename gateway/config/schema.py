"""JSON Schemas of the two YAML files, generated from the models that check them.

Out: JSON values, for `docs/schema/` and for editors. They know shapes of keys, not the checks across keys.
"""

from __future__ import annotations

from typing import Any, Literal

from gateway.config.deployment import Deployment
from gateway.config.policy_file import PolicyFile

File = Literal["deployment", "policy"]
FILES: dict[File, type[Deployment] | type[PolicyFile]] = {"deployment": Deployment, "policy": PolicyFile}


def json_schema(file: File) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FILES[file].model_json_schema(),
        "title": {"deployment": "sparkgate.yaml", "policy": "policy.yaml"}[file],
    }
