"""The central type: one request on its way through the engine, queued, running and finished.

`Sampling` says how its tokens are chosen, `Sequence` holds its tokens, its cache blocks and its
times, `Event` is what a step reports about it. Knows nothing of tensors, tokenizers or HTTP.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

FinishReason = Literal["stop", "length"]
# Tokens drafted ahead: as many as pay, none, always a full proposal, or up to a fixed confidence.
Speculation = Literal["auto", "off", "fixed", "static"]


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
    logit_bias: tuple[tuple[int, float], ...] = ()  # token ids and what is added to their logits
    seed: int = 0
    top_logprobs: int | None = None  # None: no log probabilities wanted

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5

    @property
    def has_penalties(self) -> bool:
        """Whether the tokens so far change the logits."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The model's own log probability of a chosen token, before temperature, penalties and filters."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # most likely first


@dataclass(frozen=True, slots=True)
class Round:
    """One pass of the target over a decoding sequence: its last token and drafted ones."""

    drafted: int
    verified: int  # of the drafted; slot k was tested if verified >= k
    accepted: int  # of the verified; slot k survived if accepted >= k
    committed: int  # tokens added to the answer, the target's own included


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


class Grammar(Protocol):
    """What an answer may look like, one token after the other; see `engine.grammar`."""

    def allowed(self, drafted: Ordered[int]) -> Tensor:
        """Tokens that may come next, and after each of the `drafted` ones: bool [1 + len(drafted), V].

        Rows after a drafted token that is not allowed itself hold anything. Changes nothing.
        """

    def push(self, token_id: int) -> None:
        """Take the token that was chosen."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing but an end token may come next."""


@dataclass(slots=True)
class DraftCounts:
    """What speculation did for one sequence. Tokens committed a round are accepted ÷ rounds + 1."""

    rounds: int = 0  # passes of the target that each added a token or more, the prompt's not counted
    drafted: int = 0
    verified: int = 0  # of these, sent through the target
    accepted: int = 0  # of these, in the answer

    def add(self, done: Round) -> None:
        self.rounds += 1
        self.drafted += done.drafted
        self.verified += done.verified
        self.accepted += done.accepted


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
    shape: str = ""  # its task shape, where the gateway told; only counted by
    speculation: Speculation = "auto"
    grammar: Grammar | None = None
    counts: DraftCounts = field(default_factory=DraftCounts)
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
    draft_trust: float | None = None  # log odds its drafts do better by than their confidence says
    _all_ids: array[int] = field(default_factory=lambda: array("q"), init=False, repr=False)

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

    def all_ids(self) -> array[int]:
        """Every token, prompt and answer, in one growing array. Not to be changed, nor kept in a view."""
        known = self._all_ids
        if len(known) < self.num_tokens:
            known.extend(self.token_ids(len(known), self.num_tokens - len(known)))
        return known

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
