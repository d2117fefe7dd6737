"""`convert`: a LiteLLM proxy's config.yaml as sparkgate.yaml and policy.yaml.

In: its text. Out: both files as texts that are right, `Note`s of what became of each of its keys, and the environment
variables that have to be set. Secrets are never written: what the file has in plain becomes `${NAME}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import inf
from typing import Any, TypeGuard

import yaml

from gateway.cli.litellm_account import Account, Note
from gateway.cli.litellm_targets import Secrets, provider_of, target
from gateway.config.deployment import NAME_PATTERN
from gateway.config.load import load_policy, parse_deployment
from gateway.config.mistakes import ConfigError, KeyPath, Mistake
from gateway.config.yaml_source import parse
from gateway.ledger.price_map import PriceMap, litellm_prices
from router.policy import Retries, Timeouts

STRATEGIES = {
    "simple-shuffle": "completion_p95",
    "least-busy": "completion_p95",
    "usage-based-routing": "completion_p95",
    "usage-based-routing-v2": "completion_p95",
    "latency-based-routing": "ttft",
    "cost-based-routing": "cost_per_completed_task",
}
MOST_RETRIES = 10
DEADLINES = {
    "timeout": ("total_s",),
    "request_timeout": ("total_s",),
    "stream_timeout": ("first_token_s", "idle_s"),
}
OWN_DATABASE = (
    "left out: sparkgate wants a database of its own (database_url); LiteLLM's may drop foreign tables"
)


@dataclass(frozen=True, slots=True)
class Converted:
    """`variables`: names to set before the start, and what to."""

    deployment: str
    policy: str
    notes: tuple[Note, ...]
    variables: Mapping[str, str]


def convert(text: str, file_name: str, listed: PriceMap | None = None) -> Converted:
    """Raises `ConfigError` where the text is no LiteLLM configuration, or says one thing twice."""
    source = parse(text, file_name)
    values = source.values
    if not isinstance(values, dict) or not isinstance(values.get("model_list"), list):
        raise ConfigError(
            [Mistake(file_name, None, "", "has no model_list: is it the config.yaml of a LiteLLM proxy?")]
        )
    if source.mistakes:
        raise ConfigError(source.mistakes)
    work = _Work(values, Account(source), Secrets(text), listed or litellm_prices())
    deployment, policy = work.deployment(), work.policy()
    head = f"# Made of {file_name} by `sparkgate init --from-litellm`. All keys: docs/policy-reference.md.\n"
    made = Converted(
        head + _dumped(deployment),
        head + _dumped(policy),
        tuple(work.account.notes()),
        work.secrets.variables,
    )
    _check(made)
    return made


class _Work:
    """One conversion. `groups`: the names of the targets that answer to each model name."""

    def __init__(
        self, values: Mapping[str, Any], account: Account, secrets: Secrets, listed: PriceMap
    ) -> None:
        self.values, self.account, self.secrets, self.listed = values, account, secrets, listed
        self.groups: dict[str, list[str]] = {}
        self.fallbacks = self._fallbacks()
        self.targets = list(self._targets())

    def deployment(self) -> dict[str, Any]:
        models = {
            group: self._meaning(group, names)
            for group, names in self.groups.items()
            if names != [group] or self._behind(group)
        }
        for at, settings in self._settings("router_settings"):
            models |= self._aliases(at, settings, models)
        self._account_of_general()
        return {
            "engine": {"enabled": False},
            "targets": self.targets,
            "models": models,
            "unknown_model": "reject",
        }

    def policy(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {}
        deadlines: dict[str, float] = {}
        retries: int | None = None
        for at, settings in [*self._settings("router_settings"), *self._settings("litellm_settings")]:
            strategy = settings.get("routing_strategy")
            if strategy in STRATEGIES and "objective" not in defaults:
                defaults["objective"] = STRATEGIES[strategy]
                here = f"policy.yaml: defaults.objective: {STRATEGIES[strategy]}"
                self.account.tell((*at, "routing_strategy"), "taken", here)
            for key, parts in DEADLINES.items():
                value = settings.get(key)
                if _is_span(value):
                    for part in parts:
                        deadlines.setdefault(part, value)
                    here = " and ".join(f"timeouts.{part}" for part in parts)
                    self.account.tell((*at, key), "taken", f"policy.yaml: defaults.{here}")
            given = settings.get("num_retries")
            if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
                retries = given if retries is None else retries
                here = "policy.yaml: defaults.retries.max, where tries at other targets count too"
                self.account.tell((*at, "num_retries"), "taken", here)
            self._cache(at, settings, defaults)
        if deadlines:
            defaults["timeouts"] = _fitting(deadlines)
        others = (
            max((len(names) + len(self._behind(group)) for group, names in self.groups.items()), default=1)
            - 1
        )
        if retries is not None or others > Retries().max:
            defaults["retries"] = {"max": min(MOST_RETRIES, (retries or 0) + others)}
        return {"version": 1, "defaults": defaults} if defaults else {"version": 1}

    def _settings(self, section: str) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
        given = self.values.get(section)
        if isinstance(given, dict):
            yield (section,), given

    def _targets(self) -> Iterator[dict[str, Any]]:
        listed = [
            (index, given) for index, given in enumerate(self.values["model_list"]) if isinstance(given, dict)
        ]
        names = _Names([str(given.get("model_name", "")) for _, given in listed])
        for index, given in listed:
            at: KeyPath = ("model_list", index)
            group = str(given.get("model_name", ""))
            params, info = self._params(given, at), given.get("model_info")
            name = names.of(group, provider_of(params, self.listed)[0])
            made = target(
                params,
                info if isinstance(info, dict) else {},
                ((*at, "litellm_params"), (*at, "model_info")),
                name,
                self.account,
                self.secrets,
                self.listed,
            )
            if made is None:
                self._leave_out(given, at)
                continue
            self.groups.setdefault(group, []).append(name)
            self.account.tell((*at, "model_name"), "taken", "sparkgate.yaml: targets[].name, models")
            yield made

    def _leave_out(self, deployment: Mapping[str, Any], at: KeyPath) -> None:
        for key, value in deployment.items():
            for path in [(*at, key, part) for part in value] if isinstance(value, dict) else [(*at, key)]:
                self.account.tell(path, "nothing", "left out with its model")

    def _params(self, deployment: Mapping[str, Any], at: KeyPath) -> Mapping[str, Any]:
        """`litellm_params`, over the credentials they name."""
        params = deployment.get("litellm_params")
        params = params if isinstance(params, dict) else {}
        credentials = self.values.get("credential_list")
        for index, given in enumerate(credentials if isinstance(credentials, list) else ()):
            named = isinstance(given, dict) and given.get("credential_name")
            if named and named == params.get("litellm_credential_name"):
                self.account.tell(("credential_list", index), "taken", "in the targets that name it")
                self.account.tell((*at, "litellm_params", "litellm_credential_name"), "taken", "its values")
                values = given.get("credential_values")
                return {**(values if isinstance(values, dict) else {}), **params}
        return params

    def _fallbacks(self) -> dict[str, list[str]]:
        """By model name, those it falls back to: its own before those of all names."""
        known = [
            str(given.get("model_name")) for given in self.values["model_list"] if isinstance(given, dict)
        ]
        found: dict[str, list[str]] = {}
        of_all: list[str] = []
        for at, settings in [*self._settings("router_settings"), *self._settings("litellm_settings")]:
            listed, default = settings.get("fallbacks"), settings.get("default_fallbacks")
            of_all += default if isinstance(default, list) else []
            for entry in listed if isinstance(listed, list) else ():
                for name, to in entry.items() if isinstance(entry, dict) else ():
                    if isinstance(to, list) and name in known:
                        found.setdefault(name, to)
                    elif isinstance(to, list) and name == "*":
                        of_all += to
            for key in {"fallbacks", "default_fallbacks"} & settings.keys():
                self.account.tell((*at, key), "taken", "sparkgate.yaml: models.<name>.fallback")
        found = {name: found.get(name, of_all) for name in dict.fromkeys(known)}
        others = {name: [one for one in to if one in known and one != name] for name, to in found.items()}
        return {name: to for name, to in others.items() if to}

    def _behind(self, group: str) -> list[str]:
        """The targets of the names it falls back to."""
        names = [name for other in self.fallbacks.get(group, ()) for name in self.groups.get(other, ())]
        return list(dict.fromkeys(names))

    def _meaning(self, group: str, names: list[str]) -> str | list[str] | dict[str, list[str]]:
        if fallback := self._behind(group):
            return {"targets": list(names), "fallback": fallback}
        return list(names) if len(names) > 1 else names[0]

    def _aliases(self, at: KeyPath, settings: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
        aliases = settings.get("model_group_alias")
        found: dict[str, Any] = {}
        for alias, given in aliases.items() if isinstance(aliases, dict) else ():
            group = str(given.get("model") if isinstance(given, dict) else given)
            path = (*at, "model_group_alias", alias)
            if group not in self.groups:
                self.account.tell(path, "nothing", "left out: no target answers to the name it stands for")
            elif str(alias) not in self.groups:
                found[str(alias)] = deepcopy(models.get(group, group))  # written out, not as a YAML alias
                self.account.tell(path, "taken", "sparkgate.yaml: models")
        return found

    def _cache(self, at: KeyPath, settings: Mapping[str, Any], defaults: dict[str, Any]) -> None:
        params = settings.get("cache_params")
        ttl_s = params.get("ttl") if isinstance(params, dict) else None
        if settings.get("cache") is True and _is_span(ttl_s):
            defaults["cache"] = {"ttl_s": ttl_s}
            here = "policy.yaml: defaults.cache, in the worker's memory, deterministic calls only"
            self.account.tell((*at, "cache"), "taken", here)
            self.account.tell((*at, "cache_params", "ttl"), "taken", here)

    def _account_of_general(self) -> None:
        for at, settings in self._settings("general_settings"):
            if "master_key" in settings:
                here = "SPARKGATE_API_KEY at the first start: a key of scope admin; more by `sparkgate keys create`"
                self.account.tell((*at, "master_key"), "elsewhere", here)
            if "database_url" in settings:
                self.account.tell((*at, "database_url"), "nothing", OWN_DATABASE)
        for at, settings in self._settings("litellm_settings"):
            if isinstance(settings.get("drop_params"), bool):
                wanted = "drop" if settings["drop_params"] else "reject"
                for made in self.targets:
                    made.setdefault("unsupported", wanted)
                self.account.tell((*at, "drop_params"), "taken", "sparkgate.yaml: targets[].unsupported")
        for at, settings in self._settings("environment_variables"):
            for key in settings:
                self.account.tell((*at, key), "elsewhere", "set it in the environment of the gateway")


class _Names:
    """Names for targets: the model name where only one deployment has it, else with its provider or a number."""

    def __init__(self, groups: list[str]) -> None:
        self._counts = {group: groups.count(group) for group in groups}
        self._taken = {group for group in groups if self._counts[group] == 1 and self._fits(group)} | {"auto"}

    def of(self, group: str, provider: str) -> str:
        if self._counts[group] == 1 and self._fits(group):
            return group
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", group).strip("-._")[:48] or "target"
        wanted = f"{base}-{re.sub('[^a-z0-9]+', '-', provider)}" if provider else base
        number = 1
        name = wanted if provider or group != base else f"{base}-1"
        while name in self._taken or name == group:
            number += 1
            name = f"{wanted}-{number}"
        self._taken.add(name)
        return name

    def _fits(self, group: str) -> bool:
        return bool(re.fullmatch(NAME_PATTERN, group)) and group != "auto"


def _is_span(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


def _fitting(deadlines: Mapping[str, float]) -> dict[str, float]:
    """No wait longer than the whole call."""
    total_s = deadlines.get("total_s", Timeouts().total_s)
    return {key: min(value, total_s) for key, value in deadlines.items()}


def _dumped(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110)


def _check(made: Converted) -> None:
    """Both texts as a start would read them, with something in each variable. Raises `ConfigError`."""
    stand_ins = dict.fromkeys(made.variables, "http://127.0.0.1")
    loaded = parse_deployment(made.deployment, "sparkgate.yaml", stand_ins)
    load_policy(made.policy, "policy.yaml", loaded.target_names)
