"""Speculation in the engine's loop: who gets drafts, how many of them are verified, what is learned.

In: the running sequences, and what the target computed for them. Out: `Drafts`, tokens to verify. The
drafter's own exceptions end here: it is switched off then, and answers go on without it. Knows no blocks'
books and no HTTP; whether drafts stand is `engine.judge`'s business.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Ordered
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from engine.draft_confidence import DraftConfidence, Kind, kind_of
from engine.draft_lengths import Best, best_lengths, likeliest, likely, survivals
from engine.drafters.base import DraftBatch, Drafter, Proposal, confident_lengths
from engine.drafters.batches import Anchor, Span, context_rows, draft_batch
from engine.drafters.context import DraftCache
from engine.judge import Judged, no_proposal
from engine.model import LAST_HIDDEN, Model
from engine.observer import StepTimes
from engine.scheduler import Chunk
from engine.sequence import Round, Sequence
from engine.step_costs import StepCosts

log = logging.getLogger("engine")

_MOST_WAITING = 128  # rows: more would hardly be cheaper each
_LONGEST_REST = 256  # steps
_TRYING_SHARE = 0.0075  # of the time of steps without drafting
_COST_WEIGHT = 0.2  # of the newest step
_TRIAL_EVERY = 128  # steps
_DELAY = 2  # drafted steps

# How many drafts are verified under `auto`: as this step's own chances say, up to the first draft that does not
# pay; or the likeliest, as many as paid best two steps ago.
Schedule = Literal["prefix", "delayed"]


@dataclass(frozen=True, slots=True)
class Proposed:
    """What was drafted for one sequence."""

    row: int  # of the proposal
    token_ids: tuple[int, ...]
    chances: list[float]  # of each, given that those before it stand
    num_wanted: int  # of the tokens: those worth verifying


@dataclass(frozen=True, slots=True)
class Drafts:
    """The proposals of one step."""

    proposal: Proposal | None = None
    of: Mapping[Sequence, Proposed] = field(default_factory=dict)

    @property
    def wanted(self) -> dict[Sequence, tuple[int, ...]]:
        """The tokens to verify."""
        return {sequence: one.token_ids[: one.num_wanted] for sequence, one in self.of.items()}

    def proposal_for(self, chunks: Ordered[Chunk], device: torch.device) -> Proposal:
        """The proposals of `chunks` in their order; of no length for those that verify nothing."""
        if self.proposal is None or not any(chunk.drafted for chunk in chunks):
            return no_proposal(len(chunks), device)
        rows = [self.of[chunk.sequence].row if chunk.drafted else 0 for chunk in chunks]
        return self.proposal.selected(rows, [len(chunk.drafted) for chunk in chunks])


class Speculation:
    """One drafter beside one target."""

    def __init__(
        self, name: str, drafter: Drafter, model: Model, num_blocks: int, threshold: float = 0.0
    ) -> None:
        """`threshold`: the confidence below which a proposal ends where a request asks for `static`."""
        self.name, self.drafter, self.threshold = name, drafter, threshold
        self.cache = DraftCache(drafter.context, num_blocks, model.dtype, model.device)
        self.costs = StepCosts({1: 1.0})
        self.schedule: Schedule = "prefix"
        self.is_broken = False
        self._device = model.device
        self._confidence = DraftConfidence(drafter.num_slots)
        self._waiting: list[tuple[Span, Tensor]] = []  # computed, and not yet taken in
        self._rests = _Rests()
        self._budgets = deque([0] * _DELAY)
        self._num_choices = 0

    @property
    def capture(self) -> tuple[int, ...]:
        """What the target's forward has to return for `extend`."""
        if self.is_broken:
            return ()
        return (LAST_HIDDEN,) if self.drafter.reads_last_hidden else self.drafter.target_layer_ids

    def draft(self, running: Ordered[Sequence]) -> Drafts:
        """Proposals for the sequences that want some, with as many tokens as are worth verifying."""
        decoding = [sequence for sequence in running if sequence.num_pending == 1 and sequence.output_ids]
        wanting = [one for one in decoding if one.speculation != "off" and _room(one) > 0]
        kinds = {one: kind_of(one) for one in wanting if one.speculation == "auto"}
        awake = self._rests.awake(set(kinds.values()))
        wanting = [one for one in wanting if one not in kinds or kinds[one] in awake]
        if not wanting:
            return Drafts()
        self.catch_up()
        if self.is_broken:
            return Drafts()
        try:
            proposal = self.drafter.propose(self._batch(wanting), self.cache)
            return self._choose(wanting, proposal, decoding)
        except Exception:
            self._give_up("propose")
            return Drafts()

    def _batch(self, sequences: Ordered[Sequence]) -> DraftBatch:
        anchors = [
            Anchor(
                history=sequence.all_ids(),
                block_ids=sequence.block_ids,
                temperature=sequence.sampling.temperature,
                seed=sequence.sampling.seed,
                num_generated=len(sequence.output_ids),
                stop_ids=sequence.end_ids,
            )
            for sequence in sequences
        ]
        return draft_batch(anchors, self.drafter.num_slots, self._device)

    def _choose(
        self, sequences: Ordered[Sequence], proposal: Proposal, decoding: Ordered[Sequence]
    ) -> Drafts:
        """How many drafts of each sequence to verify."""
        token_ids, drafted = proposal.token_ids.tolist(), proposal.lengths.tolist()
        logits = None if proposal.confidence_logits is None else proposal.confidence_logits.tolist()
        confident = drafted
        if proposal.confidence_logits is not None:
            confident = confident_lengths(proposal.confidence_logits, self.threshold).tolist()
        tokens: list[tuple[int, ...]] = []
        chances: list[list[float]] = []
        wanted: list[int] = []
        for row, sequence in enumerate(sequences):
            count = min(drafted[row], _room(sequence))
            tokens.append(tuple(token_ids[row][:count]))
            chances.append(self._confidence.chances(sequence, logits[row] if logits else None, count))
            fixed = {"fixed": count, "static": min(count, confident[row])}
            wanted.append(fixed.get(sequence.speculation, 0))
        free = [row for row, sequence in enumerate(sequences) if sequence.speculation == "auto"]
        is_greedy = all(sequence.sampling.is_greedy for sequence in decoding)
        survival = [likely(survivals(chances[row])) for row in free]
        most = sum(len(one) for one in survival)
        base = len(decoding) + sum(wanted)
        is_certain, is_delayed = proposal.draft_probs is None, self.schedule == "delayed"
        best = best_lengths(
            survival,
            self.costs.steps_s(len(decoding), base, most, is_greedy=is_greedy),
            num_certain=len(decoding) - len(free),
            looks_ahead=is_certain or is_delayed,
        )
        kinds = [kind_of(sequences[row]) for row in free]
        self._rests.note(kinds, survival, best, len(sequences), len(decoding))
        lengths = best.lengths
        if is_delayed:
            self._budgets.append(sum(lengths))
            lengths = likeliest(survival, self._budgets.popleft())
        if self._is_trial():
            lengths = [0] * len(free) if any(lengths) else [len(tokens[row]) for row in free]
        for row, length in zip(free, lengths, strict=True):
            wanted[row] = length
        of = {
            sequence: Proposed(row, tokens[row], chances[row], wanted[row])
            for row, sequence in enumerate(sequences)
        }
        return Drafts(proposal, of)

    def _is_trial(self) -> bool:
        """Now and then the opposite is done of what seems best, since only what is done can be measured."""
        self._num_choices += 1
        return self._num_choices % _TRIAL_EVERY == 0

    def observe(
        self, drafts: Drafts, decoding: Ordered[Sequence], num_rows: int, propose_s: float, times: StepTimes
    ) -> None:
        """What a step without prefill has taken."""
        is_greedy = all(sequence.sampling.is_greedy for sequence in decoding)
        self.costs.observe(len(decoding), num_rows, times.verify_s, times.sample_s, is_greedy=is_greedy)
        if drafts.proposal is not None:
            self._rests.observe(len(drafts.of), propose_s)

    def learn(self, drafts: Drafts, chunk: Chunk, judged: Judged) -> None:
        """See what became of a sequence's drafts. One that ends the answer was of no use, nor any after it."""
        proposed = drafts.of.get(chunk.sequence)
        if proposed is None or not proposed.token_ids:
            return
        tested, stood = len(chunk.drafted), judged.accepted
        is_certain = drafts.proposal is not None and drafts.proposal.draft_probs is None
        if tested == 0 and is_certain:  # what follows is known without a test
            tested, stood = 1, int(judged.choices[0].token_id == proposed.token_ids[0])
        ends = [choice.token_id in chunk.sequence.end_ids for choice in judged.choices[:stood]]
        stood = ends.index(True) if any(ends) else stood
        self._confidence.learn(chunk.sequence, proposed.chances, tested, stood)

    def extend(
        self, chunks: Ordered[Chunk], accepted: Mapping[Sequence, int], features: Tensor | None
    ) -> None:
        """What the target has computed and what stays, for the drafter to take in: rows of `chunks` in order.

        Call it before `num_computed` rises. It holds for all sequences, those without drafts included,
        as others may come to share their blocks. Prompts are taken in at once. The rows of answers wait for
        each other, since many cost hardly more than one: until somebody wants drafts or ends.
        """
        if self.is_broken or self.drafter.context is None:
            return
        num_rows, row = sum(chunk.width for chunk in chunks), 0
        if features is None:
            features = torch.zeros(num_rows, 0, device=self._device)
        for chunk in chunks:
            sequence, stands = chunk.sequence, accepted.get(chunk.sequence, 0)
            token_ids = [*sequence.pending_ids(chunk.num_tokens), *chunk.drafted[:stands]]
            span = Span(token_ids, sequence.num_computed, sequence.block_ids)
            self._waiting.append((span, features[row : row + len(token_ids)]))
            row += chunk.width
        num_waiting = sum(len(span.token_ids) for span, _ in self._waiting)
        if num_waiting >= _MOST_WAITING or any(chunk.num_tokens > 1 for chunk in chunks):
            self.catch_up()

    def catch_up(self) -> None:
        """Let the drafter take in all that waits. Call it before a sequence lets go of its blocks."""
        if not self._waiting:
            return
        spans, features = zip(*self._waiting, strict=True)
        self._waiting = []
        try:
            self.drafter.extend(context_rows(spans, torch.cat(features)), self.cache)
        except Exception:
            self._give_up("extend")

    def _give_up(self, what: str) -> None:
        self.is_broken = True
        self._waiting = []
        log.exception("the drafter %s failed to %s: going on without speculation", self.name, what)


def round_of(drafts: Drafts, chunk: Chunk, judged: Judged, committed: int) -> Round:
    """What a round came to. One that ended within its drafts counts as if these had ended there too."""
    proposed = drafts.of.get(chunk.sequence)
    drafted, verified = len(proposed.token_ids) if proposed else 0, len(chunk.drafted)
    if committed <= judged.accepted:
        return Round(committed, committed, committed, committed)
    return Round(drafted, verified, judged.accepted, committed)


class _Rests:
    """Steps in which a kind of requests is not drafted for, as that has not paid: twice as many each time.

    As many at most as keep the time of trying again at `_TRYING_SHARE`.
    """

    def __init__(self) -> None:
        self._draft_s: dict[int, float] = {}  # by number of sequences drafted for
        self._lengths: dict[Kind, int] = {}
        self._left: dict[Kind, int] = {}

    def awake(self, kinds: set[Kind]) -> set[Kind]:
        """Those of the kinds in this step that do not rest in it."""
        self._left |= {kind: self._left.get(kind, 0) - 1 for kind in kinds}
        return {kind for kind in kinds if self._left[kind] < 0}

    def observe(self, num_drafted: int, draft_s: float) -> None:
        """What drafting has cost."""
        seconds = max(draft_s, 1e-6)
        known = self._draft_s.get(num_drafted, seconds)
        self._draft_s[num_drafted] = known * (seconds / known) ** _COST_WEIGHT  # a slow step counts little

    def note(
        self,
        kinds: Ordered[Kind],
        survival: Ordered[Ordered[float]],
        best: Best,
        num_drafted: int,
        num_decoding: int,
    ) -> None:
        """What drafting has promised to sequences of these `kinds`, among all that were drafted for."""
        nearest = min(self._draft_s, key=lambda known: abs(known - num_drafted), default=None)
        draft_s = 0.0 if nearest is None else self._draft_s[nearest] / num_drafted
        row_s = (best.step_s - best.plain_s) / max(1, sum(best.lengths))
        for kind in set(kinds):
            rows = [row for row, one in enumerate(kinds) if one == kind]
            verified = sum(best.lengths[row] for row in rows)
            extra = sum(sum(survival[row][: best.lengths[row]]) for row in rows)
            gained_s = extra / num_decoding * best.plain_s
            longest = min(_LONGEST_REST, int(draft_s * len(rows) / best.step_s / _TRYING_SHARE))
            is_worth = gained_s > draft_s * len(rows) + row_s * verified
            length = 0 if is_worth else min(longest, max(1, 2 * self._lengths.get(kind, 0)))
            self._lengths[kind] = self._left[kind] = length


def _room(sequence: Sequence) -> int:
    """Drafts that could still be in the answer, beside the target's own token."""
    return sequence.max_new_tokens - len(sequence.output_ids) - 1
