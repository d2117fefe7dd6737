"""sparkgate.yaml and policy.yaml from disk or text to checked values; every mistake of a file at once.

In: paths, texts and the environment as a mapping. Out: `LoadedDeployment`, the router's `Policy`, or
`ConfigError`. A policy is the same on every host that shares a database, so its text takes nothing from the
environment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.deployment import Deployment
from gateway.config.deployment_checks import known_targets
from gateway.config.environment import Expanded, expand, references
from gateway.config.mistakes import ConfigError, KeyPath, Mistake
from gateway.config.policy_file import PolicyFile
from gateway.config.validation import validate
from gateway.config.yaml_source import Source, parse
from router.policy import Policy

HASH_DIGITS = 12
DEFAULT_DEPLOYMENT = Path(__file__).with_name("default_sparkgate.yaml")
DEFAULT_POLICY = Path(__file__).with_name("default_policy.yaml")


@dataclass(frozen=True, slots=True)
class LoadedDeployment:
    """A checked deployment. `disabled` gives the reason for each target that lacks its key; such a target's
    `api_key` is None. `source` is None when there was no file and everything is at its default."""

    deployment: Deployment
    disabled: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None

    @property
    def target_names(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.deployment.effective_targets)


def load_deployment(path: Path | None, env: Mapping[str, str]) -> LoadedDeployment:
    """The deployment in the file; all defaults when `path` is None or there is no such file."""
    if path is None or not path.exists():
        return LoadedDeployment(Deployment())
    return parse_deployment(read_text(path), path.name, env, path)


def parse_deployment(
    text: str, source_name: str, env: Mapping[str, str], path: Path | None = None
) -> LoadedDeployment:
    source = parse(text, source_name)
    expanded = expand(source.values, env)
    keyless = {at[1]: name for at, name in expanded.missing.items() if _is_target_key(at)}
    _note_unexpanded(source, expanded)
    deployment = validate(Deployment, source, expanded)
    if deployment is None or source.mistakes:
        raise ConfigError(source.mistakes)
    disabled = {
        deployment.targets[int(index)].name: f"the environment variable {name} is not set"
        for index, name in keyless.items()
    }
    return LoadedDeployment(deployment, disabled, path)


def written_target_names(path: Path | None) -> tuple[str, ...] | None:
    """The target names of a deployment file that has mistakes, so that a policy can be checked beside it all the
    same; None when the file cannot be read as a mapping."""
    if path is None or not path.exists():
        return LoadedDeployment(Deployment()).target_names
    try:
        values = parse(read_text(path), path.name).values
    except ConfigError:
        return None
    return tuple(known_targets(values)) if isinstance(values, Mapping) else None


def load_policy(text: str, source_name: str, target_names: Collection[str] | None) -> Policy:
    """The policy in the text. Candidates and fallbacks must be among `target_names`; None = take any name."""
    source = parse(text, source_name)
    unread = references(source.values)
    for at in unread:
        source.note(at, source.value_line(at), "${...} is not expanded in a policy; write the value itself")
    known = None if target_names is None else list(target_names)
    file = validate(PolicyFile, source, Expanded(source.values, malformed=unread), {"targets": known})
    if file is None or source.mistakes:
        raise ConfigError(source.mistakes)
    return file.policy(policy_hash(text))


def policy_hash(text: str) -> str:
    """The first 12 hex digits of the text's sha256; blank space at line ends and around it does not count."""
    canonical = "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_DIGITS]


def policy_text(path: Path | None) -> str:
    """The text of the file, or of the default policy when `path` is None or there is no such file."""
    return read_text(path if path is not None and path.exists() else DEFAULT_POLICY)


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([Mistake(path.name, None, "", f"is not UTF-8 text (byte {error.start})")]) from None
    except OSError as error:
        raise ConfigError([Mistake(str(path), None, "", f"cannot be read: {error.strerror}")]) from None


def _is_target_key(path: KeyPath) -> bool:
    return len(path) == 3 and path[0] == "targets" and path[2] == "api_key"


def _note_unexpanded(source: Source, expanded: Expanded) -> None:
    for path, name in expanded.missing.items():
        if not _is_target_key(path):
            hint = f"set it, or write ${{{name}:-default}}"
            source.note(path, source.value_line(path), f"the environment variable {name} is not set; {hint}")
    for path in expanded.malformed:
        hint = "write ${NAME} or ${NAME:-default}, and $${ for the characters themselves"
        source.note(path, source.value_line(path), f"holds a malformed reference; {hint}")
