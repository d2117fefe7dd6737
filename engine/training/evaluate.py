"""Measures a drafter beside its target: accepted length, what becomes of each slot's draft, and tokens/s.

In: a model, a drafter, prompts. Out: `Evaluation`. All goes through the engine's own loop and verification;
every proposal is verified in full. The figures are those of DSpark's evaluation: a round is a pass of the
target over one answer, and the token that follows the prompt belongs to none. R = rounds, n = slots.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.drafters.named import Named
from engine.errors import StartError
from engine.fetch import Progress
from engine.judge import Judged
from engine.loop import Engine
from engine.model import Model
from engine.observer import StepTimes
from engine.scheduler import Chunk, Limits
from engine.sequence import Round, Sampling, Sequence
from engine.speculation import Drafts, Speculation
from engine.text import TextStream
from engine.tokenizer import ModelTokenizer
from engine.training.prompts import Prompt

_PREFILL_CHUNK = 256


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """What is decoded, and how."""

    temperature: float = 0.0
    max_tokens: int = 256  # of an answer
    streams: int = 8  # answers at once, all of one domain
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rounds:
    """What became of proposals. One that an answer ended within counts as if it had ended there too."""

    prompts: Tensor  # [R] number of the prompt
    verified: Tensor  # [R] slots that were tested
    accepted: Tensor  # [R] of these
    committed: Tensor  # [R] tokens added to the answer
    logits: Tensor  # [R, n] of confidence, before the sigmoid; NaN where the drafter gives none

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def tested(self) -> Tensor:
        """[R, n] whether the slot was part of the proposal."""
        return self._slots < self.verified.unsqueeze(1)

    @property
    def stood(self) -> Tensor:
        """[R, n] whether the slot and all before it were accepted."""
        return self._slots < self.accepted.unsqueeze(1)

    @property
    def has_confidence(self) -> bool:
        return not bool(self.logits[self.tested].isnan().any())

    @property
    def accepted_length(self) -> float:
        """Tokens a round."""
        return float(self.committed.sum()) / len(self)

    @property
    def verify_rate(self) -> float:
        """Tokens a row of the target."""
        return float(self.committed.sum()) / float(self.verified.sum() + len(self))

    @property
    def survival(self) -> list[float | None]:
        """Of each slot: how often it stood with all before it. None where none was tested."""
        return _shares(self.stood & self.tested, self.tested)

    @property
    def conditional(self) -> list[float | None]:
        """Of each slot: how often it stood where those before it did."""
        reached = self.tested & (self._slots <= self.accepted.unsqueeze(1))
        return _shares(self.stood & reached, reached)

    def where(self, mask: Tensor) -> Rounds:
        """Those that `mask` [R] picks."""
        return Rounds(*(getattr(self, name)[mask] for name in self.__slots__))

    @property
    def _slots(self) -> Tensor:
        return torch.arange(self.logits.shape[1])


@dataclass(slots=True)
class Pace:
    """Tokens of answers, and the time from the first prompt to the last token."""

    num_tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        return self.num_tokens / self.seconds if self.seconds else None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rounds, and by domain the pace with the drafter and without (None: not measured)."""

    rounds: Rounds
    drafted: dict[str, Pace]
    plain: dict[str, Pace] | None


def evaluate(
    settings: EvalSettings,
    model: Model,
    tokenizer: ModelTokenizer,
    prompts: Ordered[Prompt],
    drafter: Named,
    *,
    with_plain: bool = True,
    progress: Progress = lambda what, share: None,
) -> Evaluation:
    """Answer every prompt with the drafter and, in turn with that, without. Prompt k has seed `seed` + k.

    StartError where a prompt is too long or the drafter fails.
    """
    encoded = [_encoded(tokenizer, prompt, settings, model) for prompt in prompts]
    longest = max(map(len, encoded)) + settings.max_tokens
    runs = {"drafted": _Run(settings, model, tokenizer, longest, drafter)}
    if with_plain:
        runs["plain"] = _Run(settings, model, tokenizer, longest, None)
    for run in runs.values():
        run.warm_up(encoded[0])
    done = 0
    for turn, (domain, numbers) in enumerate(_waves(prompts, settings.streams)):
        for run in list(runs.values())[:: -1 if turn % 2 else 1]:
            run.answer(domain, {number: encoded[number] for number in numbers})
        done += len(numbers)
        progress(f"temperature {settings.temperature:g}", done / len(prompts))
    plain = runs["plain"].paces if with_plain else None
    return Evaluation(runs["drafted"].rounds(), runs["drafted"].paces, plain)


def spread(prompts: Ordered[Prompt], per_domain: int) -> list[Prompt]:
    """At most `per_domain` prompts of each domain, evenly spread over those there are, in their order."""
    by_domain: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_domain.setdefault(prompt.domain, []).append(number)
    kept: list[int] = []
    for numbers in by_domain.values():
        count = min(per_domain, len(numbers))
        kept += [numbers[at * len(numbers) // count] for at in range(count)]
    return [prompts[number] for number in sorted(kept)]


class _Run:
    """One engine that answers wave after wave."""

    def __init__(
        self,
        settings: EvalSettings,
        model: Model,
        tokenizer: ModelTokenizer,
        longest: int,
        drafter: Named | None,
    ) -> None:
        self._settings = settings
        self._end_ids = model.config.eos_ids | tokenizer.end_ids
        self._engine = Engine(
            model,
            limits=Limits(settings.streams, _PREFILL_CHUNK),
            kv_tokens=settings.streams * longest,
            max_waiting=settings.streams,
            max_waiting_per_caller=settings.streams,
            deliver=lambda events: None,
        )
        self.paces: dict[str, Pace] = {}
        self._speculation: _Speculation | None = None
        if drafter is not None:
            self._speculation = _Speculation(drafter, model, self._engine.allocator.num_blocks)
            self._engine.speculation = self._speculation
            self._engine.observer = self._speculation.rounds

    def warm_up(self, prompt_ids: list[int]) -> None:
        """Pay for what the first pass sets up."""
        self.answer("", {-1: prompt_ids})
        self.paces.clear()
        if self._speculation is not None:
            self._speculation.rounds.clear()

    def answer(self, domain: str, prompts: dict[int, list[int]]) -> None:
        settings, pace = self._settings, self.paces.setdefault(domain, Pace())
        sequences = [
            Sequence(
                id=str(number),
                prompt_ids=prompt_ids,
                sampling=Sampling(temperature=settings.temperature, seed=settings.seed + max(number, 0)),
                max_new_tokens=settings.max_tokens,
                text=TextStream(lambda token_id: b""),
                end_ids=self._end_ids,
                speculation="fixed",
            )
            for number, prompt_ids in prompts.items()
        ]
        begun_s = time.monotonic()
        for sequence in sequences:
            self._engine.submit(sequence)
        self._engine.take_commands()
        while self._engine.num_open:
            for event in self._engine.step():
                if event.error is not None:
                    raise event.error
        pace.seconds += time.monotonic() - begun_s
        pace.num_tokens += sum(len(sequence.output_ids) for sequence in sequences)
        if self._speculation is not None and self._speculation.is_broken:
            raise StartError("the drafter failed, see the log; nothing was measured")

    def rounds(self) -> Rounds:
        assert self._speculation is not None
        return self._speculation.rounds.all()


class _Speculation(Speculation):
    """The engine's own, overheard."""

    def __init__(self, drafter: Named, model: Model, num_blocks: int) -> None:
        super().__init__(drafter.name, drafter.drafter, model, num_blocks)
        self.rounds = _Rounds(drafter.drafter.num_slots)

    def learn(self, drafts: Drafts, chunk: Chunk, judged: Judged) -> None:
        super().learn(drafts, chunk, judged)
        proposed, proposal = drafts.of.get(chunk.sequence), drafts.proposal
        if proposed is not None and proposal is not None and proposal.confidence_logits is not None:
            self.rounds.confidence[chunk.sequence] = proposal.confidence_logits[proposed.row].float().cpu()


class _Rounds:
    """An `Observer` that keeps every round. `confidence` is of the rounds that are not done yet."""

    def __init__(self, num_slots: int) -> None:
        self.confidence: dict[Sequence, Tensor] = {}
        self._none = torch.full((num_slots,), torch.nan)
        self._counts: list[tuple[int, int, int, int]] = []
        self._logits: list[Tensor] = []

    def round_done(self, sequence: Sequence, done: Round, num_decoding: int) -> None:
        self._counts.append((int(sequence.id), done.verified, done.accepted, done.committed))
        self._logits.append(self.confidence.pop(sequence, self._none))

    def step_done(self, times: StepTimes) -> None:
        return

    def admitted(self, sequence: Sequence) -> None:
        return

    def first_token(self, sequence: Sequence) -> None:
        return

    def preempted(self, count: int) -> None:
        return

    def ended(self, sequence: Sequence, reason: str) -> None:
        return

    def clear(self) -> None:
        self._counts.clear()
        self._logits.clear()

    def all(self) -> Rounds:
        numbers, verified, accepted, committed = torch.tensor(self._counts).long().view(-1, 4).unbind(1)
        logits = torch.stack(self._logits) if self._logits else torch.zeros(0, len(self._none))
        return Rounds(numbers, verified, accepted, committed, logits)


def _waves(prompts: Ordered[Prompt], streams: int) -> Iterable[tuple[str, list[int]]]:
    """Numbers of prompts of one domain, `streams` at a time."""
    for domain in dict.fromkeys(prompt.domain for prompt in prompts):
        numbers = [number for number, prompt in enumerate(prompts) if prompt.domain == domain]
        for first in range(0, len(numbers), streams):
            yield domain, numbers[first : first + streams]


def _encoded(tokenizer: ModelTokenizer, prompt: Prompt, settings: EvalSettings, model: Model) -> list[int]:
    token_ids = tokenizer.encode_chat([{"role": "user", "content": prompt.text}])
    most = model.config.max_positions - settings.max_tokens
    if len(token_ids) > most:
        raise StartError(
            f"the prompt that begins {prompt.text[:40]!r} has {len(token_ids)} tokens; with answers of "
            f"{settings.max_tokens} the model takes {most}"
        )
    return token_ids


def _shares(part: Tensor, whole: Tensor) -> list[float | None]:
    counts = zip(part.sum(dim=0).tolist(), whole.sum(dim=0).tolist(), strict=True)
    return [some / every if every else None for some, every in counts]
