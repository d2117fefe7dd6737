"""docs/policy-reference.md: every key of the two YAML files, from the models that check them.

    python -m gateway.config.reference > docs/policy-reference.md

In: the models' JSON Schemas, and `MEANINGS`: a sentence a key. Out: Markdown. A key without a sentence, or a sentence
without a key, is a `LookupError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config.schema import json_schema
from router.policy import ShapePolicy, Timeouts

Schema = Mapping[str, Any]
HEAD = """\
# Every key of policy.yaml and sparkgate.yaml

Made from the models that check the files, by `python -m gateway.config.reference`. What is not listed here is no key,
and `sparkgate policy check` says so. Keys marked *needed* have to be given; all others may be left out, and so may both
files. In sparkgate.yaml `${NAME}` and `${NAME:-default}` stand for environment variables. How to try policies out:
[policy.md](policy.md).
"""
# By "Model.key", or by the key alone where it means the same wherever it stands.
MEANINGS: Mapping[str, str] = {
    # policy.yaml
    "PolicyFile.version": "the format of this file",
    "PolicyFile.shapes": "settings by task shape; what a shape leaves out is as in `defaults`",
    "PolicyFile.defaults": "settings of every shape that says nothing else, and of the router as a whole",
    "PolicyFile.rules": "which calls are of which shape; the first that fits decides, unless the caller has said so",
    "objective": "what to be best at, among the targets that meet the limits of `slo`",
    "candidates": "the targets to choose from; none = every enabled one. `{target, weight}` gives one a fixed share",
    "roles": "candidates for calls that name their role (header `X-Task-Role`, metadata `role`)",
    "fallback": "tried in this order when no candidate answers, and before one that its load makes miss the `slo`",
    "sticky": "prefer the target that holds the start of a task's conversation in its cache",
    "shadow": "a target that gets a share of the calls too, its answers unused",
    "slo": "limits that a target's prediction should meet; one that misses is used only when none meets all",
    "timeouts": "seconds that a call may take",
    "hedge": "a second target beside one that is slow to begin; left out = never",
    "completed_when": "how a call shows that its task is completed, where nobody reports an outcome",
    "abandoned_after_s": "a task without an outcome counts as abandoned after so long a silence",
    "keepalive_s": "send comments into a stream so often until its first token; errors then come in the stream",
    "cache": "keep answers to deterministic calls (temperature 0, a seed, embeddings) for their caller",
    "retries": "further attempts of one call",
    "explore": "the share of calls that tries another target, so that what is known of it stays fresh",
    "half_life_s": "how fast an old measurement loses its weight; read at start",
    "max_ejected": "of a call's candidates, the share that may rest for failures at a time",
    "WeightedFile.target": "a target's name",
    "WeightedFile.weight": "the share of the calls that it gets, whatever its score",
    "RolesFile.draft": "targets for steps on the way",
    "RolesFile.final": "targets for answers",
    "ShadowFile.target": "who is sent the share",
    "ShadowFile.share": "of the calls; 0 = none",
    "ShadowFile.usd_per_day": "what it may cost a day; left out = without a limit",
    "SloFile.ttft_p95_s": "time to the first token, 95th percentile",
    "SloFile.tpot_s": "time per further token",
    "SloFile.completion_p95_s": "time to the end, 95th percentile",
    "SloFile.timeout_rate": "the share of calls that time out",
    "SloFile.truncation_rate": "the share of answers cut off at their token limit",
    "first_token_s": "to the first token",
    "idle_s": "between two pieces of a stream",
    "total_s": "for the whole call",
    "HedgeFile.after": "`p95` = when the first target is slower than its own 95th percentile; or seconds",
    "HedgeFile.budget": "the share of calls that may be hedged at most; 0 = never",
    "ttl_s": "how long",
    "RetriesFile.max": "at most so many a call, those at other targets included",
    "RetriesFile.budget": "and at most this share of all calls for repeats at the same target",
    "RuleFile.when": "conditions, all of which must fit: `header.<name>`, `metadata.<key>`, `model`, `caller`, "
    "`endpoint` or `workflow`, each with a shell pattern (`*`, `?`, `[abc]`)",
    "RuleFile.shape": "the shape of calls that fit",
    # sparkgate.yaml
    "Deployment.database_url": "`embedded` = a Postgres in the data directory; or `postgresql://user:password@host/name`",
    "host": "the address that the gateway listens at; `0.0.0.0` = reachable from other machines",
    "Deployment.port": "of the gateway; 0 = any free one",
    "engine_port": "of the bundled engine",
    "dashboard_port": "of the dashboard",
    "workers": "gateway processes that share the port",
    "shutdown_delay_s": "how long it still takes calls after it is stopped, while `/ready` says 503",
    "shutdown_grace_s": "how long running calls may take to end when it is stopped",
    "engine": "the bundled inference engine",
    "targets": "what calls can go to, besides the bundled engine",
    "models": "what model names that apps send mean: `auto`, `auto/<shape>`, a target, a list of targets, or "
    "`{targets: [a], fallback: [b]}`; keys may be patterns, and go before targets of the same name",
    "ModelName.targets": "ranked by the objective of the call's shape; no other is tried",
    "ModelName.fallback": "but these, in this order, when none of them answers",
    "unknown_model": "a name that nothing here explains is routed like `auto`, or refused with 404",
    "ledger": "records on their way to Postgres, and how long they are kept there",
    "dashboard": "who may see it",
    "telemetry": "OpenTelemetry ([observability.md](observability.md))",
    "enabled": "whether it is started, and is a target called `engine`",
    "EngineSettings.model": "`smollm2-135m-instruct`, a Hugging Face id, or a folder",
    "dtype": "the numbers that the model is computed in",
    "device": "where it is computed",
    "drafter": "what guesses tokens ahead: `auto`, `bundled`, `lookup`, `none`, a folder, a Hugging Face id "
    "([drafters.md](drafters.md))",
    "draft_schedule": "guesses are judged by this step's confidences, or by those of two steps before",
    "max_batch": "answers that are computed at the same time",
    "threads": "of the processor; left out = the engine chooses",
    "EngineSettings.cost_per_hour_usd": "what its machine costs ([cost.md](cost.md))",
    "name": "what policies, the ledger and the dashboard call it, and what an app may ask for as a model",
    "kind": "how it is spoken to",
    "max_parallel": "calls at a time; left out = without a limit",
    "queue": "calls that wait for their turn while `max_parallel` are running",
    "unsupported": "parameters that a translation cannot carry over: leave them out, or refuse the call",
    "EngineTarget.url": "where it is, e.g. `http://10.0.0.5:8090`",
    "EngineTarget.model": "left out = it is asked",
    "EngineTarget.cost_per_hour_usd": "left out = as `engine.cost_per_hour_usd`",
    "ServerTarget.url": "where it is, e.g. `http://10.0.0.5:8000`",
    "ServerTarget.model": "as the server calls it: `--served-model-name`, else the path or id that it was started with",
    "ServerTarget.context_tokens": "the longest prompt and answer together; left out = it is asked",
    "ServerTarget.max_batch": "answers that it computes at the same time: vLLM's `--max-num-seqs`, SGLang's "
    "`--max-running-requests`",
    "ServerTarget.cost_per_hour_usd": "what its machines cost ([cost.md](cost.md)); left out = unknown",
    "OpenAITarget.model": "the provider's name of it",
    "AnthropicTarget.model": "the provider's name of it",
    "LitellmTarget.model": "litellm's name of it, provider included: `bedrock/…`",
    "api_key": "usually `${NAME}`; while the variable is not set, the target is disabled and the rest works",
    "base_url": "where its API is; a `/v1` at the end may be written or not",
    "LitellmTarget.base_url": "left out = where litellm knows it to be",
    "context_tokens": "the longest prompt and answer together; left out = as listed, or unknown",
    "endpoints": "those that it speaks itself; left out = what its kind and its model's name suggest",
    "prices": "what tokens cost ([cost.md](cost.md)); left out = as in litellm's list",
    "input_usd_per_mtok": "USD per million tokens of input",
    "cached_usd_per_mtok": "of input that was read from the provider's cache",
    "cache_write_usd_per_mtok": "of input that was written to it, for five minutes",
    "cache_write_1h_usd_per_mtok": "of input that was written to it, for an hour",
    "output_usd_per_mtok": "of output",
    "reasoning_usd_per_mtok": "of output that was reasoning",
    "audio_input_usd_per_mtok": "of audio in the input",
    "audio_output_usd_per_mtok": "of audio in the output",
    "image_input_usd_per_mtok": "of images in the input",
    "image_output_usd_per_mtok": "of images in the output",
    "above": "other prices for calls with longer inputs",
    "input_tokens": "for calls with more input than this",
    "service_tiers": "other prices by what answers say in `service_tier`",
    "usd_per_request": "for each request, besides its tokens",
    "usd_per_web_search": "for each web search",
    "on_full": "spool full: refuse new calls with 503, or serve them and count the losses",
    "max_spool_mb": "of records on disk that wait for the database",
    "retention_days": "how long calls are kept in the database",
    "sign_in": "with an API key; `auto` = unless only this machine can reach the dashboard",
    "DashboardSettings.database_url": "of a role that may only read; left out = made, or as the gateway's",
    "otlp_endpoint": "e.g. `http://localhost:4318`; left out = off",
    "headers": "for the collector",
    "service_name": "left out = as OTEL_SERVICE_NAME says, else sparkgate",
    "sample": "the share of traces to keep, of those that begin here",
    "callers": "whether spans name the caller",
}
_TITLES = {
    "Deployment": "sparkgate.yaml",
    "PolicyFile": "policy.yaml",
    "ShapeFile": "A task shape",
    "DefaultsFile": "defaults",
    "WeightedFile": "A candidate with a weight",
    "ModelName": "What a model name means",
    "RuleFile": "A rule",
    "EngineTarget": "A target of kind engine",
    "ServerTarget": "A target of kind vllm or sglang",
    "OpenAITarget": "A target of kind openai",
    "AnthropicTarget": "A target of kind anthropic",
    "LitellmTarget": "A target of kind litellm",
    "PricesAbove": "prices above a length of input",
    "TokenPrices": "prices of a service tier",
}
# Where a model says nothing, what holds is the router's own default.
_BEHIND: Mapping[str, object] = {"DefaultsFile": ShapePolicy(), "TimeoutsFile": Timeouts()}
_LIMITS = ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")


def markdown() -> str:
    """The whole page. Raises `LookupError` for keys and sentences that do not belong together."""
    used: set[str] = set()
    pieces = [HEAD]
    for root, file in (("PolicyFile", "policy"), ("Deployment", "deployment")):
        schema = json_schema("policy" if file == "policy" else "deployment")
        pieces += _sections(root, schema, schema.get("$defs", {}), used)
    if idle := sorted(set(MEANINGS) - used):
        raise LookupError(f"sentences of keys that are not there: {', '.join(idle)}")
    return "\n".join(pieces)


def _sections(root: str, schema: Schema, models: Mapping[str, Schema], used: set[str]) -> Iterator[str]:
    """The root's, then those of the models it leads to, each once and in the order in which they come."""
    done, waiting = {root}, [(root, schema)]
    for model, described in waiting:
        yield _section(model, described, root == model, used)
        for name in _models_in(described.get("properties", {})):
            if name not in done:
                done.add(name)
                waiting.append((name, models[name]))


def _section(model: str, schema: Schema, is_root: bool, used: set[str]) -> str:
    lines = [f"{'##' if is_root else '###'} {_title(model)}", "", _inline(schema.get("description", "")), ""]
    lines += ["| key | value | default | |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for key, value in schema.get("properties", {}).items():
        cells = (
            f"`{key}`",
            _type(value),
            _default(model, key, value, key in required),
            _meaning(model, key, used),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _meaning(model: str, key: str, used: set[str]) -> str:
    for name in (f"{model}.{key}", key):
        if name in MEANINGS:
            used.add(name)
            return MEANINGS[name]
    raise LookupError(f"{model}.{key} has no sentence in gateway.config.reference.MEANINGS")


def _title(model: str) -> str:
    return _TITLES.get(model, model.removesuffix("File").removesuffix("Settings").lower())


def _link(model: str) -> str:
    title = _title(model)
    return f"[{title}](#{title.lower().replace('.', '').replace(' ', '-')})"


def _type(value: Schema) -> str:
    if "$ref" in value:
        return _link(_name(value["$ref"]))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if options := value.get("anyOf") or value.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in options if one.get("type") != "null"))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    if value.get("type") == "object":
        return f"mapping to {_type(value['additionalProperties'])}"
    if value.get("type") in ("number", "integer"):
        limits = [f"{sign} {value[key]:,.12g}" for key, sign in _LIMITS if key in value]
        return " ".join(
            [{"number": "number", "integer": "whole number"}[value["type"]], ", ".join(limits)]
        ).strip()
    return {"string": "text", "boolean": "`true`, `false`"}[value["type"]]


def _default(model: str, key: str, value: Schema, is_required: bool) -> str:
    if is_required:
        return "*needed*"
    if model == "ShapeFile":
        return "as in `defaults`"
    default = getattr(_BEHIND.get(model), key, value.get("default"))
    if default in (None, [], {}, ()) or not isinstance(default, str | int | float):
        return "–"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _models_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield _name(value["$ref"])
        for key, item in value.items():
            if key not in ("default", "discriminator"):
                yield from _models_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _models_in(item)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _inline(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    print(markdown(), end="")
