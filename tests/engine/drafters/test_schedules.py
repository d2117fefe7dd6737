"""However it is decided how many drafts are verified, answers keep the target's distribution.

Drafter and target are tables over three tokens, so that thousands of answers through the engine's own
`Speculation` take seconds. The drafter's confidence tells much about the draft before, as a real one's does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
from torch import Tensor

import engine.speculation as engine_speculation
from engine.chance import Stream, stream_uniforms
from engine.commit import commit
from engine.draft_lengths import best_lengths, survivals
from engine.drafters.base import ContextRows, DraftBatch, Proposal
from engine.drafters.batches import Anchor, draft_batch
from engine.drafters.context import ContextShape, DraftCache
from engine.drafters.draws import choose
from engine.judge import Judged, decide
from engine.model import Llama
from engine.scheduler import Chunk
from engine.sequence import Sampling, Sequence
from engine.sequence import Speculation as Mode
from engine.speculation import Drafts, Schedule, Speculation
from engine.step_costs import StepCosts
from engine.verify import verify
from tests.engine.drafters.chi_square import p_value
from tests.engine.toy import make_sequence

ANSWERS, STREAMS, VOCAB, SLOTS, LENGTH, CPU = 6_000, 60, 3, 3, 3, torch.device("cpu")
FIRST = 0  # the first token of every answer
WARM = Sampling(temperature=1.0)


def table(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TARGET_LOGITS = 1.2 * table(1, VOCAB, VOCAB)  # after the last token
DRAFT_LOGITS = table(2, VOCAB, SLOTS, VOCAB)  # after the draft before, or the anchor
CONFIDENCE_LOGITS = torch.tensor([3.0, -1.0, 1.0])  # by the same token


class Tables:
    """Draws its drafts."""

    num_slots, target_layer_ids, reads_last_hidden = SLOTS, (), False
    context: ContextShape | None = None

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        raise AssertionError("it keeps nothing")

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        assert batch.uniforms is not None
        assert batch.temperatures is not None
        before, tokens, distributions = batch.anchors, [], []
        confidences = []
        for slot in range(SLOTS):
            confidences.append(CONFIDENCE_LOGITS[before])
            before, probs = choose(DRAFT_LOGITS[before, slot], batch.temperatures, batch.uniforms[:, slot])
            assert probs is not None
            tokens.append(before)
            distributions.append(probs)
        token_ids, draft_probs = torch.stack(tokens, dim=1), torch.stack(distributions, dim=1)
        own = draft_probs.gather(2, token_ids.unsqueeze(2)).squeeze(2)
        lengths = torch.full((len(token_ids),), SLOTS)
        return Proposal(token_ids, lengths, own, draft_probs, None, torch.stack(confidences, dim=1))


def joint() -> Tensor:
    """Exact probabilities of the LENGTH tokens after the first, flat."""
    probs, joint = TARGET_LOGITS.softmax(-1).double(), torch.ones(1, dtype=torch.float64)
    last = torch.tensor([FIRST])
    for _ in range(LENGTH):
        joint = (joint.unsqueeze(1) * probs[last]).view(-1)
        last = torch.arange(VOCAB).repeat(len(last))
    return joint


def answers(speculation: Speculation, mode: Mode) -> tuple[Tensor, Tensor]:
    """How often each answer came, flat, and how many rounds verified 0, 1, … drafts."""
    observed, verified = torch.zeros(VOCAB**LENGTH), torch.zeros(SLOTS + 1)
    seeds = iter(range(ANSWERS))
    running = [begun(seed, mode) for seed in islice(seeds, STREAMS)]
    while running:
        drafts = speculation.draft(running)
        chunks = [Chunk(sequence, 1, drafts.wanted.get(sequence, ())) for sequence in running]
        for chunk, judged in zip(chunks, verdicts(drafts, chunks), strict=True):
            sequence = chunk.sequence
            verified[len(chunk.drafted)] += 1
            speculation.learn(drafts, chunk, judged)
            commit(sequence, judged.choices, 0.0)
            sequence.num_computed = sequence.num_tokens - 1
            if len(sequence.output_ids) > LENGTH:
                first, second, third = sequence.output_ids[1 : 1 + LENGTH]
                observed[(first * VOCAB + second) * VOCAB + third] += 1
                running.remove(sequence)
                running += [begun(seed, mode) for seed in islice(seeds, 1)]
    return observed, verified


def begun(seed: int, mode: Mode) -> Sequence:
    sequence = make_sequence(str(seed), [1], 2 + LENGTH + SLOTS, sampling=replace(WARM, seed=seed))
    sequence.output_ids, sequence.num_computed, sequence.speculation = [FIRST], 1, mode
    return sequence


def verdicts(drafts: Drafts, chunks: list[Chunk]) -> list[Judged]:
    path = [[chunk.sequence.output_ids[-1], *chunk.drafted] for chunk in chunks]
    logits = TARGET_LOGITS[[token for tokens in path for token in tokens]]
    sequences = [chunk.sequence for chunk in chunks]
    drafted = [chunk.drafted for chunk in chunks]
    return decide(drafts.proposal_for(chunks, CPU), logits, sequences, drafted)


def speculation_of(model: Llama, schedule: Schedule = "prefix") -> Speculation:
    """One whose rows cost so much that drafts of a survival of a fifth just pay."""
    made = Speculation("tables", Tables(), model, 1, threshold=0.5)
    made.costs = StepCosts({1: 1.0, 601: 4.0})
    made.schedule = schedule
    return made


@pytest.mark.parametrize(
    ("mode", "schedule"), [("auto", "prefix"), ("auto", "delayed"), ("fixed", "prefix"), ("static", "prefix")]
)
def test_answers_have_the_targets_distribution(toy_model: Llama, mode: Mode, schedule: Schedule) -> None:
    observed, verified = answers(speculation_of(toy_model, schedule), mode)
    assert observed.sum() == ANSWERS
    assert p_value(observed, joint()) > 1e-3
    used = verified / verified.sum()
    assert (used[SLOTS] == 1.0) if mode == "fixed" else bool(used.max() < 0.95)


def test_the_test_notices_a_draft_that_had_a_say_in_its_being_verified(
    toy_model: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the confidence of the slot after it."""

    def peeking(survival: list[list[float]], step_s: list[float], **options: object) -> object:
        best = best_lengths(survival, step_s)
        return replace(best, lengths=[2 * (one[1:2] > [0.5 * one[0]]) for one in survival])

    monkeypatch.setattr(engine_speculation, "best_lengths", peeking)
    observed, _ = answers(speculation_of(toy_model), "auto")
    assert p_value(observed, joint()) < 1e-9


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_the_papers_counter_example(looks_ahead: bool) -> None:
    """Appendix A: 1, 0.5 and 0.45 steps a second at 1, 2 and 3 rows, a first draft that survives with 0.8.

    Here the second's chance hangs on which token the first is, as it may. Whoever looks at it verifies the
    first if it is that token, and so has it more often than the target would.
    """
    second = [0.95, 0.1, 0.1]  # given that the first stands, by the first token
    find = partial(best_lengths, step_s=[1.0, 2.0, 1 / 0.45], looks_ahead=looks_ahead)
    lengths = torch.tensor([find([survivals([0.8, chance])]).lengths[0] for chance in second])
    assert lengths.tolist() == ([2, 0, 0] if looks_ahead else [0, 0, 0])
    seeds = list(range(60_000))
    batch, places = torch.arange(len(seeds)), [1] * len(seeds)
    numbers = stream_uniforms(Stream.DRAFT, seeds, places, 2, CPU)
    slots = [
        choose(DRAFT_LOGITS[FIRST, slot].expand(len(seeds), -1), torch.ones(len(seeds)), numbers[:, slot])
        for slot in range(2)
    ]
    token_ids = torch.stack([tokens for tokens, _ in slots], dim=1)
    draft_probs = torch.stack([probs for _, probs in slots if probs is not None], dim=1)
    own = draft_probs.gather(2, token_ids.unsqueeze(2)).squeeze(2)
    proposal = Proposal(token_ids, lengths[token_ids[:, 0]], own, draft_probs)
    target = TARGET_LOGITS.softmax(-1)
    rows = torch.stack(
        [target[FIRST].expand(len(seeds), -1), target[token_ids[:, 0]], target[token_ids[:, 1]]], dim=1
    )
    accept = stream_uniforms(Stream.ACCEPT, seeds, places, 2, CPU)
    after = stream_uniforms(Stream.NEXT, seeds, places, 3, CPU)
    verdict = verify(proposal, rows.reshape(-1, VOCAB), 3 * batch, accept, after)
    first = torch.where(verdict.accepted > 0, token_ids[:, 0], verdict.next_ids)
    p = p_value(torch.bincount(first, minlength=VOCAB), target[FIRST])
    assert p < 1e-9 if looks_ahead else p > 1e-3


def test_what_a_round_drafted_may_decide_how_many_drafts_later_rounds_verify() -> None:
    """As the delayed schedule has it: a place is drafted a second time, by a length that the first draft chose."""
    seeds = list(range(60_000))
    ones = torch.ones(len(seeds))

    def drafted(last: Tensor, num_generated: int) -> tuple[Tensor, list[Tensor]]:
        """Tokens [answers, SLOTS] after `last`, and what each was drawn from."""
        anchors = [Anchor([FIRST], [0], 1.0, seed, num_generated) for seed in seeds]
        numbers = draft_batch(anchors, SLOTS, CPU).uniforms
        assert numbers is not None
        tokens, distributions = [last], []
        for slot in range(SLOTS):
            token, probs = choose(DRAFT_LOGITS[tokens[-1], slot], ones, numbers[:, slot])
            assert probs is not None
            tokens.append(token)
            distributions.append(probs)
        return torch.stack(tokens[1:], dim=1), distributions

    target, start = TARGET_LOGITS.softmax(-1), torch.full((len(seeds),), FIRST)
    earlier, _ = drafted(start, 1)
    tokens, distributions = drafted(start, SLOTS)  # two places on, where the last draft was
    lengths = (earlier[:, SLOTS - 1] == 0).long()
    proposal = Proposal(
        tokens[:, :1],
        lengths,
        distributions[0].gather(1, tokens[:, :1]),
        distributions[0].unsqueeze(1),
    )
    places = [SLOTS] * len(seeds)
    rows = torch.stack([target[start], target[tokens[:, 0]]], dim=1).view(-1, VOCAB)
    accept = stream_uniforms(Stream.ACCEPT, seeds, places, 1, CPU)
    after = stream_uniforms(Stream.NEXT, seeds, places, 2, CPU)
    verdict = verify(proposal, rows, 2 * torch.arange(len(seeds)), accept, after)
    first = torch.where(verdict.accepted > 0, tokens[:, 0], verdict.next_ids)
    assert p_value(torch.bincount(first, minlength=VOCAB), target[FIRST]) > 1e-3
