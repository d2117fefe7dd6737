"""OpenAI's answer shapes: chat and text completions, whole and in chunks, with logprobs and usage.

In: texts, log probabilities and counts. Out: dictionaries ready for JSON. Holds no connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from engine.sequence import Sequence, Timings, TokenLogprob
from engine.tokenizer import ModelTokenizer

Json = dict[str, Any]
PlacedLogprob = tuple[TokenLogprob, int]  # with the token's offset in the text


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
    """How one endpoint writes its answers."""

    id_prefix: str

    def opening(self, head: AnswerHead) -> Json | None:
        """The chunk before the first text, if this endpoint has one."""

    def chunk(self, head: AnswerHead, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
        """One chunk of a stream: text, or the finish reason."""

    def usage_chunk(self, head: AnswerHead) -> Json:
        """The chunk without choices that carries usage."""

    def whole(self, head: AnswerHead, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        """The body of an answer that is not streamed."""

    def logprobs(self, placed: list[PlacedLogprob], tokenizer: ModelTokenizer) -> Json:
        """The `logprobs` object for these tokens."""


class ChatShape:
    id_prefix = "chatcmpl-"
    _chunk_kind = "chat.completion.chunk"

    def opening(self, head: AnswerHead) -> Json:
        return self._delta(head, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, head: AnswerHead, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
        return self._delta(head, {"content": text} if finish_reason is None else {}, logprobs, finish_reason)

    def _delta(self, head: AnswerHead, delta: Json, logprobs: Json | None, finish_reason: str | None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return head.object(self._chunk_kind, [choice])

    def usage_chunk(self, head: AnswerHead) -> Json:
        return head.object(self._chunk_kind, [])

    def whole(self, head: AnswerHead, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}
        return head.object("chat.completion", [choice])

    def logprobs(self, placed: list[PlacedLogprob], tokenizer: ModelTokenizer) -> Json:
        def entry(token_id: int, logprob: float) -> Json:
            raw = tokenizer.raw_token_bytes(token_id)
            return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

        content = [
            {**entry(token.token_id, token.logprob), "top_logprobs": [entry(*top) for top in token.top]}
            for token, _ in placed
        ]
        return {"content": content, "refusal": None}


class CompletionShape:
    id_prefix = "cmpl-"
    _kind = "text_completion"

    def opening(self, head: AnswerHead) -> None:
        return None

    def chunk(self, head: AnswerHead, text: str, logprobs: Json | None, finish_reason: str | None) -> Json:
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return head.object(self._kind, [choice])

    def usage_chunk(self, head: AnswerHead) -> Json:
        return head.object(self._kind, [])

    def whole(self, head: AnswerHead, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        return self.chunk(head, text, logprobs, finish_reason)

    def logprobs(self, placed: list[PlacedLogprob], tokenizer: ModelTokenizer) -> Json:
        return {
            "tokens": [tokenizer.token_text(token.token_id) for token, _ in placed],
            "token_logprobs": [token.logprob for token, _ in placed],
            "top_logprobs": [_top_by_text(token, tokenizer) for token, _ in placed],
            "text_offset": [offset for _, offset in placed],
        }


def _top_by_text(token: TokenLogprob, tokenizer: ModelTokenizer) -> dict[str, float]:
    """Most likely tokens by their text; where several have the same text, the likeliest counts."""
    by_text: dict[str, float] = {}
    for token_id, logprob in token.top:
        by_text.setdefault(tokenizer.token_text(token_id), logprob)
    return by_text


def closing_fields(sequence: Sequence, timings: Timings, *, with_usage: bool) -> Json:
    """What the last chunk, or the body, carries beside its choices.

    Under `sparkgate`: seconds in each phase, and what speculation did in tokens, see `engine.sequence.DraftCounts`.
    """
    counts = sequence.counts
    own = {
        "queue_s": round(timings.queue_s, 6),
        "prefill_s": round(timings.prefill_s, 6),
        "decode_s": round(timings.decode_s, 6),
        "rounds": counts.rounds,
        "drafted": counts.drafted,
        "verified": counts.verified,
        "accepted": counts.accepted,
    }
    return {"usage": usage(sequence), "sparkgate": own} if with_usage else {"sparkgate": own}


def usage(sequence: Sequence) -> Json:
    num_prompt, num_output = len(sequence.prompt_ids), len(sequence.output_ids)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {"cached_tokens": sequence.num_cached},
    }
