"""The loaders of sparkgate.yaml and policy.yaml: a text is loaded, or its mistakes are told, each on a line it has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random

import yaml

from gateway.config.catalog import catalog
from gateway.config.load import load_policy, parse_deployment
from gateway.config.mistakes import ConfigError
from router.shapes import SHAPES
from tests.fuzz import mutate
from tests.fuzz.base import FuzzTarget, must

DEPLOYMENTS = (
    "host: 127.0.0.1\nport: 8080\nengine: {enabled: false}\nunknown_model: reject\n",
    "targets:\n  - {name: flash, kind: openai, base_url: 'https://h/v1', model: m, api_key: '${A}', max_parallel: 3}\n"
    "models: {gpt-4o: auto, 'claude-*': auto/support, fast: [engine, flash]}\n",
    "targets:\n  - &t {name: one, kind: anthropic, model: claude-opus-5, unsupported: drop}\n"
    "  - <<: *t\n    name: two\n    prices: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 4e-1}\n",
    "ledger: {on_full: serve, max_spool_mb: 10, retention_days: 7}\ntelemetry: {otlp_endpoint: null, sample: 0.5}\n",
    "engine:\n  model: smollm2-135m-instruct\n  cost_per_hour_usd: ${B:-0.2}\n  max_batch: 8\nworkers: 2\n",
)
POLICIES = (
    "version: 1\nshapes:\n  short_chat:\n    objective: ttft\n    candidates: [engine, {target: flash, weight: 0.1}]\n"
    "    slo: {ttft_p95_s: 1.5, timeout_rate: 0.005}\n    fallback: [claude]\n",
    "version: 1\ndefaults:\n  timeouts: {first_token_s: 3, idle_s: 10, total_s: 30}\n  retries: {max: 2, budget: 0.2}\n"
    "  explore: 0.02\n  half_life_s: 60\n  hedge: {after: p95, budget: 0.05}\n",
    "version: 1\nrules:\n- {when: {header.x-app: helpdesk, model: 'gpt-*'}, shape: support}\n- {when: {metadata.team: "
    "blue}, shape: general}\n",
    "version: 1\nshapes: &s\n  support: &x {objective: speed, cache: {ttl_s: 300}, completed_when: json_valid}\n"
    "  agent_loop: {<<: *x, roles: {draft: [engine], final: [claude]}, shadow: {target: flash, share: 0.01}}\n",
)
NAMES = ("engine", "flash", "claude")


def make(corpus: Sequence[str], chance: Random) -> str:
    text = chance.choice(corpus)
    kind = chance.random()
    if kind < 0.6:
        value, other = (yaml.load(one, yaml.CSafeLoader) for one in (text, chance.choice(corpus)))
        text = mutate.yaml_of(mutate.tree(chance, value, other, times=2))
    if kind > 0.5:
        text = mutate.raw(chance, text.encode()).decode(errors="replace")
    return text


def take_deployment(text: str) -> None:
    try:
        loaded = parse_deployment(text, "f.yaml", {"A": "1"})
    except ConfigError as error:
        _check(error, text)
        return
    found = catalog(loaded.deployment, loaded.disabled).targets
    must(set(found) == set(loaded.target_names), "targets were lost")


def take_policy(text: str) -> None:
    try:
        policy = load_policy(text, "f.yaml", NAMES)
    except ConfigError as error:
        _check(error, text)
        return
    for shape in SHAPES:
        timeouts = policy.for_shape(shape).timeouts
        must(0 < timeouts.first_token_s <= timeouts.total_s, f"deadlines of {shape}: {timeouts}")


def _check(error: ConfigError, text: str) -> None:
    last = len(text.splitlines()) + 1
    must(bool(error.mistakes and str(error)), "an error that tells no mistake")
    must(all(1 <= (mistake.line or 1) <= last for mistake in error.mistakes), f"on no line: {error}")


TARGETS = (
    FuzzTarget("sparkgate.yaml", 0.015, partial(make, DEPLOYMENTS), take_deployment),
    FuzzTarget("policy.yaml", 0.015, partial(make, POLICIES), take_policy),
)
