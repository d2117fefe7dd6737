"""`Options` of `sparkgate up` and `sparkgate gateway`, and the two YAML files checked together with them.

In: the command line's values and the environment. Out: a `Plan`, or `ConfigError` with every mistake of both
files. Starts nothing, makes no folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.deployment import Deployment, EngineTarget
from gateway.config.load import (
    LoadedDeployment,
    load_deployment,
    load_policy,
    policy_text,
    written_target_names,
)
from gateway.config.mistakes import ConfigError, Mistake
from gateway.config.variables import DATABASE_URL_VARIABLE

DEFAULT_CONFIG = Path("sparkgate.yaml")
DEFAULT_POLICY = Path("policy.yaml")
DEFAULT_DATA_DIR = Path(".sparkgate")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; None = as the files say. The two file defaults may be absent on disk."""

    config: Path | None = None
    policy: Path | None = None
    data_dir: Path = DEFAULT_DATA_DIR
    host: str | None = None
    port: int | None = None
    engine_port: int | None = None
    dashboard_port: int | None = None
    workers: int | None = None
    engine: bool = True
    dashboard: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started: checked files, absolute paths, options laid over the deployment."""

    deployment: Deployment
    disabled: Mapping[str, str]
    data_dir: Path
    config: Path | None  # None: there is no such file, everything is at its default
    policy: Path | None
    starts_engine: bool
    starts_dashboard: bool


def make_plan(options: Options, env: Mapping[str, str]) -> Plan:
    """Check both files; `SPARKGATE_DATABASE_URL`, when set, stands for the file's `database_url`."""
    mistakes: list[Mistake] = []
    config = _file(options.config, DEFAULT_CONFIG, mistakes)
    policy = _file(options.policy, DEFAULT_POLICY, mistakes)
    loaded: LoadedDeployment | None = None
    try:
        loaded = load_deployment(config, env)
    except ConfigError as error:
        mistakes += error.mistakes
    try:
        load_policy(
            policy_text(policy),
            policy.name if policy else "policy.yaml",
            loaded.target_names if loaded else written_target_names(config),
        )
    except ConfigError as error:
        mistakes += error.mistakes
    if loaded is None or mistakes:
        raise ConfigError(mistakes)
    deployment = _with_options(loaded.deployment, options, env)
    return Plan(
        deployment=deployment,
        disabled=loaded.disabled,
        data_dir=options.data_dir.expanduser().resolve(),
        config=config,
        policy=policy,
        starts_engine=options.engine and deployment.engine.enabled and _leads_to_bundled_engine(deployment),
        starts_dashboard=options.dashboard,
    )


def _leads_to_bundled_engine(deployment: Deployment) -> bool:
    """Whether some target is the engine that would be started here: listed ones may all be elsewhere."""
    urls = [
        urlsplit(target.url) for target in deployment.effective_targets if isinstance(target, EngineTarget)
    ]
    return any(url.hostname in _LOOPBACK and url.port == deployment.engine_port for url in urls)


def _file(given: Path | None, default: Path, mistakes: list[Mistake]) -> Path | None:
    """A file named on the command line must exist; one that is only the default need not."""
    path = (given or default).expanduser().absolute()
    if path.is_file():
        return path
    if given is not None:
        mistakes.append(Mistake(str(given), None, "", "there is no such file; `sparkgate init` writes one"))
    return None


def _with_options(deployment: Deployment, options: Options, env: Mapping[str, str]) -> Deployment:
    chosen = {
        "host": options.host,
        "port": options.port,
        "engine_port": options.engine_port,
        "dashboard_port": options.dashboard_port,
        "workers": options.workers,
        "database_url": env.get(DATABASE_URL_VARIABLE) or None,
    }
    return deployment.model_copy(update={key: value for key, value in chosen.items() if value is not None})
