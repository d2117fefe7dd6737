"""The checks of `sparkgate doctor`, and in what order they are made; none of them starts or changes anything.

In: the files' paths and the data directory. Out: `Check`s: ok, note (works, but worth knowing) or wrong, each with what
to do. Here: files, packages, ports, clocks; the data directory, the database and the targets have files of their own.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from gateway.cli import checks_data, checks_database, checks_targets, price_notes
from gateway.cli.checks_data import Check
from gateway.cli.policy_files import Checked, check_files
from gateway.config.deployment import Deployment, EngineSettings, EngineTarget, ModelName
from gateway.config.load import LoadedDeployment
from gateway.config.variables import DATABASE_URL_VARIABLE
from gateway.supervise.parts import local_url
from gateway.supervise.ports import PortTaken, check_free

if TYPE_CHECKING:
    from router.policy import Policy

OLDEST_PYTHON = (3, 11)
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
    checks += _dead_names(checked.deployment)
    deployment = checked.deployment.deployment
    answers = checks_targets.ask(deployment, checked.deployment.disabled, deployment.engine_port)
    checks += [*_targets(checked.deployment), *(answer.check for answer in answers)]
    checks += _prices(checked)
    ahead = {answer.check.name: answer.ahead_s for answer in answers if answer.ahead_s is not None}
    url = os.environ.get(DATABASE_URL_VARIABLE) or deployment.database_url
    checks += checks_database.database(url, data_dir, ahead)
    checks += _clock(ahead)
    checks += _data(data_dir, deployment)
    if deployment.engine.enabled:
        checks += [_package("engine", "torch"), checks_data.model(deployment.engine.model, data_dir)]
        checks += _compiler(deployment.engine, Path("/proc/cpuinfo"))
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


def _dead_names(loaded: LoadedDeployment) -> list[Check]:
    """Model names that apps use and that lead to disabled targets only."""
    found = []
    for name, meaning in loaded.deployment.models.items():
        if isinstance(meaning, ModelName):
            targets = [*meaning.targets, *meaning.fallback]
        else:
            targets = [meaning] if isinstance(meaning, str) else [*meaning]
        if targets and all(target in loaded.disabled for target in targets):
            said = f"leads to {', '.join(targets)}, disabled all: set the key, or name others under `models`"
            found.append(Check(f"model name {name}", "wrong", said))
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
    found += [
        Check(f"target {name}", "note", why)
        for name, why in price_notes.charged_as_a_providers(checked.deployment).items()
    ]
    budgets = [] if checked.policy is None else price_notes.unheld_budgets(checked.policy, notes)
    return found + [Check("shadow", "note", budget) for budget in budgets]


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


def _compiler(engine: EngineSettings, cpuinfo: Path) -> list[Check]:
    """Whether the engine could use the processor's matrix units (AMX), for which it builds its C++ at a start."""
    if engine.dtype not in ("auto", "w8a16") or engine.device == "cuda" or not cpuinfo.is_file():
        return []
    if "amx_int8" not in cpuinfo.read_text().split() or shutil.which(os.environ.get("CXX", "g++")):
        return []
    hint = "install g++, or name one in CXX"
    if engine.dtype == "w8a16":
        return [Check("C++ compiler", "wrong", f"there is none, which dtype w8a16 needs: {hint}")]
    said = "there is none, so the engine runs at about a third of its speed"
    return [Check("C++ compiler", "note", f"{said}: {hint}")]


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
    troubles += [
        f"{name}: {state['problem']}" for name, state in (targets or {}).items() if state.get("problem")
    ]
    if troubles:
        return Check(check, "note", "runs, but " + "; ".join(troubles))
    return Check(check, "ok", "runs and is healthy")


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None
