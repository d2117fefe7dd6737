"""OpenAI's answer shapes: chat and text completions, whole and in chunks, with logprobs and usage.

In: deltas and counts. Out: dictionaries ready for JSON. Holds no connection.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass, replace
from typing import Any, Protocol

from engine.http.choice import Call, Choice, Delta, PlacedLogprob
from engine.sequence import Sequence, Timings, TokenLogprob
from engine.tokenizer import ModelTokenizer

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What every chunk of one answer repeats."""

    id: str
    created: int
    model: str
    fingerprint: str

    def object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


class Shape(Protocol):
    """How one endpoint writes its answers. `logprobs` is None where none are wanted, or none have come."""

    id_prefix: str
    chunk_kind: str
    whole_kind: str

    def opening(self, index: int, *, may_call: bool) -> Json | None:
        """The choice of the chunk before its first text, if this endpoint has one."""

    def part(self, index: int, delta: Delta, logprobs: Json | None) -> Json:
        """The choice of a chunk with content or calls, but not its end."""

    def end(self, index: int, logprobs: Json | None, finish_reason: str) -> Json:
        """The choice of the chunk that ends it."""

    def whole(self, index: int, said: Delta, logprobs: Json | None) -> Json:
        """The choice of an answer that is not streamed."""

    def logprobs(self, placed: list[PlacedLogprob], tokenizer: ModelTokenizer) -> Json:
        """The `logprobs` object for these tokens."""


class ChatShape:
    id_prefix = "chatcmpl-"
    chunk_kind = "chat.completion.chunk"
    whole_kind = "chat.completion"

    def opening(self, index: int, *, may_call: bool) -> Json:
        return _chat_part(index, {"role": "assistant", "content": None if may_call else ""}, None, None)

    def part(self, index: int, delta: Delta, logprobs: Json | None) -> Json:
        said: Json = {"content": delta.content} if delta.content else {}
        if delta.calls:
            said["tool_calls"] = [{"index": call.index, **_call(call)} for call in delta.calls]
        return _chat_part(index, said, logprobs, None)

    def end(self, index: int, logprobs: Json | None, finish_reason: str) -> Json:
        return _chat_part(index, {}, logprobs, finish_reason)

    def whole(self, index: int, said: Delta, logprobs: Json | None) -> Json:
        message: Json = {"role": "assistant", "content": said.content, "refusal": None}
        if said.calls:
            message["content"] = said.content or None
            message["tool_calls"] = [_call(call) for call in said.calls]
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": said.finish_reason}

    def logprobs(self, placed: list[PlacedLogprob], tokenizer: ModelTokenizer) -> Json:
        def entry(token_id: int, logprob: float) -> Json:
            raw = tokenizer.raw_token_bytes(token_id)
            return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

        content = [
            {**entry(token.token_id, token.logprob), "top_logprobs": [entry(*top) for top in token.top]}
            for token, _ in placed
        ]
        return {"content": content, "refusal": None}


def _chat_part(index: int, delta: Json, logprobs: Json | None, finish_reason: str | None) -> Json:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def _call(call: Call) -> Json:
    if call.name is None:
        return {"function": {"arguments": call.arguments}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


class CompletionShape:
    id_prefix = "cmpl-"
    chunk_kind = whole_kind = "text_completion"

    def opening(self, index: int, *, may_call: bool) -> None:
        return None

    def part(self, index: int, delta: Delta, logprobs: Json | None) -> Json:
        return _text_choice(index, delta.content, logprobs, None)

    def end(self, index: int, logprobs: Json | None, finish_reason: str) -> Json:
        return _text_choice(index, "", logprobs, finish_reason)

    def whole(self, index: int, said: Delta, logprobs: Json | None) -> Json:
        return _text_choice(index, said.content, logprobs, said.finish_reason)

    def logprobs(self, placed: list[PlacedLogprob], tokenizer: ModelTokenizer) -> Json:
        return {
            "tokens": [tokenizer.token_text(token.token_id) for token, _ in placed],
            "token_logprobs": [token.logprob for token, _ in placed],
            "top_logprobs": [_top_by_text(token, tokenizer) for token, _ in placed],
            "text_offset": [offset for _, offset in placed],
        }


def _text_choice(index: int, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _top_by_text(token: TokenLogprob, tokenizer: ModelTokenizer) -> dict[str, float]:
    """Most likely tokens by their text; where several have the same text, the likeliest counts."""
    by_text: dict[str, float] = {}
    for token_id, logprob in token.top:
        by_text.setdefault(tokenizer.token_text(token_id), logprob)
    return by_text


def closing_fields(choices: Ordered[Choice], *, with_usage: bool) -> Json:
    """What the last chunk, or the body, carries beside its choices, all of which have ended.

    Under `sparkgate`: seconds in each phase, and what speculation did in tokens, see `engine.sequence.DraftCounts`.
    """
    timings = _timings([choice.timings for choice in choices if choice.timings is not None])
    counts = [choice.sequence.counts for choice in choices]
    own = {
        "queue_s": round(timings.queue_s, 6),
        "prefill_s": round(timings.prefill_s, 6),
        "decode_s": round(timings.decode_s, 6),
        "rounds": sum(count.rounds for count in counts),
        "drafted": sum(count.drafted for count in counts),
        "verified": sum(count.verified for count in counts),
        "accepted": sum(count.accepted for count in counts),
    }
    if not with_usage:
        return {"sparkgate": own}
    return {"usage": usage([choice.sequence for choice in choices]), "sparkgate": own}


def _timings(by_choice: list[Timings]) -> Timings:
    """From the first choice's arrival to the last one's end; the others arrive with the first one's first token."""
    first, *others = by_choice
    ends_s = [other.queue_s + other.prefill_s + other.decode_s for other in others]
    return replace(first, decode_s=max([first.decode_s, *ends_s]))


def usage(sequences: Ordered[Sequence]) -> Json:
    """Tokens of one prompt and all its answers."""
    first = sequences[0]
    num_prompt, num_output = len(first.prompt_ids), sum(len(sequence.output_ids) for sequence in sequences)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {"cached_tokens": first.num_cached},
    }
