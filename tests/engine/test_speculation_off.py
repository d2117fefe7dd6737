"""Speculation ends by itself where it loses, and nowhere else: found out by what steps took and drafts came to.

Requests go through the engine's own `Speculation` beside a target that only has a cost: a pass takes longer
with its rows, drafting takes 0.4 of a pass. Every answer is sevens and an end, and how often the drafter is
right depends on the request; it is always as sure of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

import pytest
import torch

from engine.draft_lengths import log_odds
from engine.drafters.base import ContextRows, DraftBatch, Proposal
from engine.drafters.context import ContextShape, DraftCache
from engine.judge import Judged
from engine.model import Llama
from engine.observer import StepTimes
from engine.sampler import Choice
from engine.scheduler import Chunk
from engine.sequence import Sampling, Sequence
from engine.speculation import Schedule, Speculation
from engine.step_costs import StepCosts
from tests.engine.toy import make_sequence

SLOTS, PASS_S, DRAFT_S = 4, 0.010, 0.004
RIGHT, WRONG, END = 7, 8, 9


@dataclass(frozen=True)
class Request:
    """What is asked, and how well it can be drafted."""

    skill: float
    answer_tokens: int = 60  # the first, which comes with the prompt, and the end included
    temperature: float = 0.0
    prompt_tokens: int = 20
    shape: str = ""


class Skilled:
    """A drafter that is right as often as the requests say; a prompt is its request's number, repeated."""

    num_slots, target_layer_ids, reads_last_hidden = SLOTS, (), False
    context: ContextShape | None = None

    def __init__(self, requests: list[Request]) -> None:
        self.requests, self._random = requests, Random(5)

    def extend(self, rows: ContextRows, cache: DraftCache) -> None:
        raise AssertionError("it keeps nothing")

    def propose(self, batch: DraftBatch, cache: DraftCache) -> Proposal:
        tokens: list[list[int]] = []
        lengths: list[int] = []
        for history in batch.histories:
            asked = self.requests[history[0]]
            right = answer(asked)[len(history) - asked.prompt_tokens :][:SLOTS]
            drafted = [one if self._random.random() < asked.skill else WRONG for one in right]
            tokens.append(drafted + [WRONG] * (SLOTS - len(drafted)))
            lengths.append(len(drafted))
        shape = (len(tokens), SLOTS)
        is_drawn = batch.temperatures is not None
        return Proposal(
            torch.tensor(tokens),
            torch.tensor(lengths),
            torch.ones(shape) if is_drawn else None,
            torch.ones((*shape, 1)) if is_drawn else None,
            confidence_logits=torch.full(shape, log_odds(0.75)),
        )


def answer(asked: Request) -> list[int]:
    return [RIGHT] * (asked.answer_tokens - 1) + [END]


def ratios(
    model: Llama,
    requests: list[Request],
    streams: int = 1,
    row_s: Callable[[int], float] = lambda rows: PASS_S * (1.0 + 0.02 * rows),
    schedule: Schedule = "prefix",
) -> dict[Request, float]:
    """Seconds with speculation over those without, by request, of the later half of `requests`."""
    speculation = Speculation("skilled", Skilled(requests), model, 1)
    speculation.costs = StepCosts({rows: row_s(rows) for rows in (1, 8, 16, 32, 64, 128, 160)})
    speculation.schedule = schedule
    waiting, running = iter(range(len(requests))), list[Sequence]()
    spent = dict.fromkeys(requests, 0.0)
    plain = dict.fromkeys(requests, 0.0)
    while running := running + [begun(requests, at) for at in islice(waiting, streams - len(running))]:
        drafts = speculation.draft(running)
        chunks = [Chunk(sequence, 1, drafts.wanted.get(sequence, ())) for sequence in running]
        num_rows = sum(chunk.width for chunk in chunks)
        draft_s, verify_s = DRAFT_S if drafts.proposal else 0.0, row_s(num_rows)
        for chunk in chunks:
            asked, sequence = requests[chunk.sequence.prompt_ids[0]], chunk.sequence
            left = answer(asked)[len(sequence.output_ids) :]
            pairs = zip(chunk.drafted, left, strict=False)
            stood = next((at for at, (one, right) in enumerate(pairs) if one != right), len(chunk.drafted))
            new = left[: stood + 1]
            speculation.learn(drafts, chunk, Judged(stood, [Choice(one, None) for one in new]))
            sequence.output_ids += new
            sequence.num_computed = sequence.num_tokens - 1
            if int(sequence.id) >= len(requests) // 2:
                spent[asked] += (draft_s + verify_s) / len(running)
                plain[asked] += len(new) * row_s(len(running)) / len(running)
        speculation.observe(drafts, running, num_rows, draft_s, StepTimes(draft_s, verify_s, 0.0, 0.0))
        running = [one for one in running if one.output_ids[-1] != END]
    assert not speculation.is_broken
    return {asked: spent[asked] / plain[asked] for asked in spent if plain[asked]}


def begun(requests: list[Request], at: int) -> Sequence:
    asked = requests[at]
    sampling = Sampling(temperature=asked.temperature, seed=at)
    prompt_ids, end_ids = [at] * asked.prompt_tokens, frozenset({END})
    sequence = make_sequence(str(at), prompt_ids, 1000, sampling=sampling, end_ids=end_ids)
    sequence.output_ids, sequence.num_computed, sequence.shape = [RIGHT], len(prompt_ids), asked.shape
    return sequence


EASY = Request(skill=0.85)
SHORT = Request(skill=0.85, answer_tokens=2, shape="classification")
HOT = Request(skill=0.1, temperature=1.5, answer_tokens=12)
LONG = Request(skill=0.1, prompt_tokens=5000, answer_tokens=12)


@pytest.mark.parametrize("schedule", ["prefix", "delayed"])
def test_where_drafts_stand_they_are_used(toy_model: Llama, schedule: Schedule) -> None:
    assert ratios(toy_model, [EASY] * 60, schedule=schedule)[EASY] < 0.7
    drawn = replace(EASY, temperature=0.7)
    assert ratios(toy_model, [drawn] * 60, schedule=schedule)[drawn] < 0.7


@pytest.mark.parametrize("schedule", ["prefix", "delayed"])
@pytest.mark.parametrize("losing", [SHORT, HOT, LONG], ids=["short", "hot", "long"])
def test_requests_that_lose_are_left_alone_also_among_others(
    toy_model: Llama, losing: Request, schedule: Schedule
) -> None:
    many = 400 if losing is SHORT else 100
    assert ratios(toy_model, [losing] * many, schedule=schedule)[losing] < 1.03
    found = ratios(toy_model, [losing, EASY] * many, schedule=schedule)
    assert found[losing] < 1.04
    assert found[EASY] < 0.7


@pytest.mark.parametrize("schedule", ["prefix", "delayed"])
def test_a_full_machine_does_not_draft(toy_model: Llama, schedule: Schedule) -> None:
    def full(rows: int) -> float:
        return PASS_S * max(1.0, rows / 16)

    assert ratios(toy_model, [EASY] * 200, 32, full, schedule)[EASY] < 1.03
    assert ratios(toy_model, [EASY] * 60, 1, full, schedule)[EASY] < 0.7


def test_requests_that_come_to_pay_are_found_again(toy_model: Llama) -> None:
    better = replace(HOT, skill=0.85)
    assert ratios(toy_model, [HOT] * 100 + [better] * 100)[better] < 0.8
