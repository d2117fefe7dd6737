"""The central type: one request on its way through the engine, queued, running and finished.

`Sampling` says how its tokens are chosen, `Sequence` holds its tokens, its cache blocks and its
times, `Event` is what a step reports about it. Knows nothing of tensors, tokenizers or HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; the defaults leave the model's distribution as it is."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    top_logprobs: int | None = None  # None: no log probabilities wanted

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def has_penalties(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The model's own log probability of a chosen token, before temperature, penalties and filters."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # most likely first


class TextSink(Protocol):
    """Turns the sequence's tokens into text that may be shown; see `engine.text.TextStream`."""

    def push(self, token_id: int) -> str:
        """Take one token, return the text that is now safe to show."""

    def close(self) -> str:
        """No more tokens: return what was still held back."""

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has been completed."""

    @property
    def length(self) -> int:
        """Characters decoded so far, shown or not."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One prompt and what was generated for it. Compared by identity.

    `num_computed` counts the tokens whose keys and values lie in the cache blocks `block_ids`. While
    decoding exactly one token is pending; a preempted sequence has all of them pending again.
    """

    id: str
    prompt_ids: list[int]
    sampling: Sampling
    max_new_tokens: int
    text: TextSink
    end_ids: frozenset[int] = frozenset()  # tokens that end the answer
    min_new_tokens: int = 0
    suppressed_ids: frozenset[int] = frozenset()  # tokens not chosen before `min_new_tokens` are out
    caller: str = ""  # whose turn it uses in the queue; empty: the one all share who give no name
    output_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    block_digests: list[bytes] = field(default_factory=list)  # names of its full blocks, see `engine.prefix`
    num_published: int = 0  # of `block_ids`: full blocks that others can find
    num_cached: int = 0  # prompt tokens found in the cache when it was first admitted
    finish_reason: FinishReason | None = None
    arrived_s: float = 0.0
    admitted_s: float | None = None
    first_token_s: float | None = None
    finished_s: float | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids)

    @property
    def num_pending(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def max_tokens(self) -> int:
        """Tokens this sequence may at most have, prompt included."""
        return len(self.prompt_ids) + self.max_new_tokens

    def pending_ids(self, count: int) -> list[int]:
        """The next `count` tokens to be computed."""
        return self.token_ids(self.num_computed, count)

    def token_ids(self, start: int, count: int) -> list[int]:
        """`count` tokens of prompt and answer together, from position `start` on."""
        num_prompt = len(self.prompt_ids)
        if start >= num_prompt:
            return self.output_ids[start - num_prompt : start - num_prompt + count]
        ids = self.prompt_ids[start : start + count]
        return ids + self.output_ids[: count - len(ids)]

    def timings(self) -> Timings:
        """Seconds spent so far in each phase; a phase not reached counts nothing."""
        if self.finished_s is None or self.admitted_s is None or self.first_token_s is None:
            return Timings(0.0, 0.0, 0.0)
        return Timings(
            queue_s=self.admitted_s - self.arrived_s,
            prefill_s=self.first_token_s - self.admitted_s,
            decode_s=self.finished_s - self.first_token_s,
        )


@dataclass(frozen=True, slots=True)
class Timings:
    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Event:
    """What one step did for one sequence. The last one has a finish reason, or an error."""

    sequence_id: str
    text: str = ""
    logprobs: tuple[tuple[TokenLogprob, int], ...] = ()  # with each token's offset in the text
    num_output: int = 0
    finish_reason: FinishReason | None = None
    timings: Timings | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        return self.finish_reason is not None or self.error is not None
