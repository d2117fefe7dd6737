"""Numbers keyed by place, over rounds that draft a place again: four tokens keep the target's distribution.

Target and drafter are tables, so that 60,000 answers of several rounds each take a second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.chance import Stream, stream_uniforms
from engine.drafters.base import Proposal
from engine.drafters.draws import choose
from engine.verify import verify
from tests.engine.drafters.chi_square import p_value

ANSWERS, VOCAB, SLOTS, LENGTH, CPU = 60_000, 4, 3, 4, torch.device("cpu")


def table(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TARGET = (1.2 * table(1, VOCAB, VOCAB, VOCAB)).softmax(-1)  # after the last two tokens
DRAFT_LOGITS = table(2, VOCAB, SLOTS, VOCAB)  # by anchor and slot


def points(stream: Stream, seeds: Tensor, place: int, count: int) -> Tensor:
    return stream_uniforms(stream, seeds.tolist(), [place] * len(seeds), count, CPU)


def propose(anchors: Tensor, seeds: Tensor, place: int) -> Proposal:
    """Three slots; only the first is verified where its token is 2: a length may depend on what is before."""
    numbers, warm = points(Stream.DRAFT, seeds, place, SLOTS), torch.ones(len(seeds))
    slots = [choose(DRAFT_LOGITS[anchors, slot], warm, numbers[:, slot]) for slot in range(SLOTS)]
    token_ids = torch.stack([column for column, _ in slots], dim=1)
    probs = torch.stack([distribution for _, distribution in slots if distribution is not None], dim=1)
    own = probs.gather(2, token_ids.unsqueeze(2)).squeeze(2)
    return Proposal(token_ids, torch.where(token_ids[:, 0] == 2, 1, SLOTS), own, probs)


def answers() -> tuple[Tensor, int]:
    """Tokens [answers, LENGTH], and how often a place was drafted in more than one round."""
    tokens = torch.zeros((ANSWERS, 2 + LENGTH + SLOTS + 1), dtype=torch.long)  # a history of two zeros first
    done, seeds, redrafted = torch.zeros(ANSWERS, dtype=torch.long), torch.arange(ANSWERS), 0
    for place in range(LENGTH):
        active = (done == place).nonzero().squeeze(1)
        before = tokens[active, place : place + 2]
        proposal = propose(before[:, 1], seeds[active], place)
        path = torch.cat([before, proposal.token_ids], dim=1)
        rows = torch.stack([TARGET[path[:, at], path[:, at + 1]] for at in range(SLOTS + 1)], dim=1)
        verdict = verify(
            proposal,
            rows.view(-1, VOCAB),
            torch.arange(len(active)) * (SLOTS + 1),
            points(Stream.ACCEPT, seeds[active], place, SLOTS),
            points(Stream.NEXT, seeds[active], place, SLOTS + 1),
        )
        drafted = torch.cat([proposal.token_ids, torch.zeros((len(active), 1), dtype=torch.long)], dim=1)
        committed = drafted.scatter(1, verdict.accepted.unsqueeze(1), verdict.next_ids.unsqueeze(1))
        tokens[active, place + 2 : place + 3 + SLOTS] = committed
        done[active] += verdict.accepted + 1
        redrafted += int((verdict.accepted + 1 < SLOTS).sum())
    return tokens[:, 2 : 2 + LENGTH], redrafted


def exact() -> Tensor:
    """The target's joint distribution of LENGTH tokens after two zeros, flat."""
    joint, history = torch.ones(1), torch.zeros((1, 2), dtype=torch.long)
    for _ in range(LENGTH):
        joint = (joint.unsqueeze(1) * TARGET[history[:, 0], history[:, 1]]).view(-1)
        last = history[:, 1].repeat_interleave(VOCAB)
        history = torch.stack([last, torch.arange(VOCAB).repeat(len(history))], dim=1)
    return joint


def test_answers_of_several_rounds_have_the_targets_distribution() -> None:
    tokens, redrafted = answers()
    weights = VOCAB ** torch.arange(LENGTH - 1, -1, -1)
    observed = torch.bincount((tokens * weights).sum(1), minlength=VOCAB**LENGTH)
    assert redrafted > ANSWERS
    assert p_value(observed, exact()) > 1e-3
