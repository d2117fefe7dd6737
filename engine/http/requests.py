"""Reads the bodies of the two generation endpoints into a `GenerationRequest`.

In: a JSON body. Out: a checked request, not yet tokenized. Fields nobody knows are ignored, as an app
may carry them for another provider; known fields that this engine cannot honour are refused by name.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any, get_args

import orjson

from engine.chat_template import Message
from engine.http.fields import Fields
from engine.http.messages import read_messages
from engine.http.tools import read_offer
from engine.sequence import Sampling, Speculation
from engine.tool_calls import ToolOffer

MAX_STOPS = 4
MAX_BIASES = 1024
MAX_CHOICES = 8
SCHEMA_PARAM = "response_format.json_schema.schema"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What the client asked for. Exactly one of messages, prompt text and prompt ids is given."""

    model: str
    sampling: Sampling
    max_new_tokens: int | None
    stops: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    ignore_end: bool = False
    min_new_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    json_schema: str | None = None  # what the answer must match; None: anything
    is_strict: bool = False  # whether keywords of the schema that cannot be enforced are refused
    num_choices: int = 1
    tools: ToolOffer | None = None
    speculation: Speculation = "auto"
    messages: list[Message] = field(default_factory=list)
    prompt: str | None = None
    prompt_ids: list[int] | None = None

    @property
    def num_characters(self) -> int:
        return len(self.prompt or "") + sum(len(message["content"]) for message in self.messages)

    @property
    def has_rule(self) -> bool:
        """Whether the answer may not be just any text."""
        return self.json_schema is not None or self.tools is not None


def read_chat(body: dict[str, Any]) -> GenerationRequest:
    """A body of /v1/chat/completions."""
    fields = Fields(body)
    model = fields.required_text("model")
    modalities = fields.raw("modalities")
    if modalities not in (None, ["text"]):
        raise fields.unsupported("modalities", "it answers in text only.")
    for name in ("audio", "prediction", "web_search_options"):
        if fields.raw(name) is not None:
            raise fields.unsupported(name, "leave it out.")
    top_logprobs = fields.integer("top_logprobs", 0, 20)
    wants_logprobs = fields.flag("logprobs")
    if top_logprobs is not None and not wants_logprobs:
        raise fields.invalid("top_logprobs", "it needs 'logprobs' to be true.")
    limit = fields.integer("max_completion_tokens", 1)
    older_limit = fields.integer("max_tokens", 1)
    return _read_common(
        fields,
        model=model,
        messages=read_messages(fields),
        tools=read_offer(fields),
        top_logprobs=(top_logprobs or 0) if wants_logprobs else None,
        max_new_tokens=limit if limit is not None else older_limit,
    )


def read_completion(body: dict[str, Any]) -> GenerationRequest:
    """A body of /v1/completions."""
    fields = Fields(body)
    model = fields.required_text("model")
    if fields.flag("echo"):
        raise fields.unsupported("echo", "put the prompt before the answer yourself.")
    if fields.text("suffix"):
        raise fields.unsupported("suffix", "its model cannot fill in the middle.")
    if fields.integer("best_of", 1) not in (None, fields.integer("n", 1) or 1):
        raise fields.unsupported("best_of", "ask for 'n' answers and choose among them.")
    prompt, prompt_ids = _read_prompt(fields)
    return _read_common(
        fields,
        model=model,
        prompt=prompt,
        prompt_ids=prompt_ids,
        top_logprobs=fields.integer("logprobs", 0, 5),
        max_new_tokens=fields.integer("max_tokens", 1),
    )


def _read_common(fields: Fields, *, top_logprobs: int | None, **given: Any) -> GenerationRequest:
    stream = fields.flag("stream")
    options = fields.object("stream_options")
    if fields.raw("stream_options") is not None and not stream:
        raise fields.invalid("stream_options", "it is only allowed when 'stream' is true.")
    json_schema, is_strict = _read_response_format(fields)
    request = GenerationRequest(
        sampling=_read_sampling(fields, top_logprobs),
        stops=_read_stops(fields),
        stream=stream,
        include_usage=options.flag("include_usage"),
        ignore_end=fields.flag("ignore_eos"),
        min_new_tokens=fields.integer("min_tokens", 0) or 0,
        stop_ids=_read_stop_ids(fields),
        json_schema=json_schema,
        is_strict=is_strict,
        num_choices=fields.integer("n", 1, MAX_CHOICES) or 1,
        speculation=_read_speculation(fields),
        **given,
    )
    if request.has_rule and request.min_new_tokens:
        raise fields.invalid("min_tokens", "'response_format' and 'tools' decide where an answer ends.")
    return request


def _read_sampling(fields: Fields, top_logprobs: int | None) -> Sampling:
    repetition = fields.number("repetition_penalty", 1.0, 0.0, 10.0)
    if repetition == 0.0:
        raise fields.invalid("repetition_penalty", "it must be above 0.")
    seed = fields.integer("seed", -(2**63), 2**64 - 1)
    return Sampling(
        temperature=fields.number("temperature", 1.0, 0.0, 2.0),
        top_p=fields.number("top_p", 1.0, 0.0, 1.0),
        top_k=max(0, fields.integer("top_k", -1) or 0),  # -1 is how some clients say: no limit
        min_p=fields.number("min_p", 0.0, 0.0, 1.0),
        presence_penalty=fields.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2.0, 2.0),
        repetition_penalty=repetition,
        logit_bias=_read_biases(fields),
        seed=random.getrandbits(64) if seed is None else seed % 2**64,
        top_logprobs=top_logprobs,
    )


def _read_biases(fields: Fields) -> tuple[tuple[int, float], ...]:
    """OpenAI's map of token ids, which are JSON keys and so strings, to what is added to their logits."""
    biases = fields.object("logit_bias")
    names = list(fields.mapping("logit_bias"))
    if len(names) > MAX_BIASES:
        raise fields.invalid("logit_bias", f"at most {MAX_BIASES} tokens are allowed, got {len(names)}.")
    wrong = next((name for name in names if not re.fullmatch(r"[0-9]{1,9}", name)), None)
    if wrong is not None:
        raise fields.invalid("logit_bias", f"{wrong[:40]!r} is not a token id.")
    return tuple((int(name), biases.number(name, 0.0, -100.0, 100.0)) for name in names)


def _read_response_format(fields: Fields) -> tuple[str | None, bool]:
    """The JSON Schema that the answer must match, and whether all of it must be enforceable."""
    form = fields.object("response_format")
    if fields.raw("response_format") is None:
        return None, False
    kind = form.required_text("type")
    if kind == "text":
        return None, False
    if kind == "json_object":
        return '{"type":"object"}', True
    if kind != "json_schema":
        raise form.invalid("type", f"{kind!r} is none of text, json_object, json_schema.")
    if form.raw("json_schema") is None:
        raise form.missing("json_schema")
    described = form.object("json_schema")
    described.required_text("name")
    if described.raw("schema") is None:
        raise described.missing("schema")
    return orjson.dumps(described.mapping("schema")).decode(), described.flag("strict")


def _read_speculation(fields: Fields) -> Speculation:
    """A seed promises the same answer again, which drawn drafts cannot keep: how many are tested depends on load."""
    own = fields.object("sparkgate")
    wanted = own.text("speculation")
    for known in get_args(Speculation):
        if wanted == known:
            return known
    if wanted is None:
        is_drawn = fields.number("temperature", 1.0, 0.0, 2.0) > 0.0
        return "off" if is_drawn and fields.raw("seed") is not None else "auto"
    raise own.invalid("speculation", f"{wanted!r} is none of {', '.join(get_args(Speculation))}.")


def _read_stops(fields: Fields) -> tuple[str, ...]:
    value = fields.raw("stop")
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise fields.wrong_type("stop", "a string or an array of strings")
    if len(stops) > MAX_STOPS:
        raise fields.invalid("stop", f"at most {MAX_STOPS} stop strings are allowed, got {len(stops)}.")
    if "" in stops:
        raise fields.invalid("stop", "a stop string must not be empty.")
    return tuple(stops)


def _read_stop_ids(fields: Fields) -> frozenset[int]:
    value = fields.raw("stop_token_ids")
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise fields.wrong_type("stop_token_ids", "an array of token ids")
    return frozenset(value)


def _read_prompt(fields: Fields) -> tuple[str | None, list[int] | None]:
    """One prompt: a string or token ids, bare or as the only element of an array."""
    prompt = fields.raw("prompt")
    if prompt is None:
        raise fields.missing("prompt")
    if isinstance(prompt, list) and prompt and all(isinstance(part, str | list) for part in prompt):
        if len(prompt) > 1:
            raise fields.unsupported("prompt", "send one request for each prompt.")
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt, None
    if isinstance(prompt, list) and all(type(token) is int for token in prompt):
        return None, prompt
    raise fields.wrong_type("prompt", "a string or an array of token ids")
