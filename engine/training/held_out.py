"""How a drafter would do on answers it never learnt from: the rounds of greedy decoding, replayed.

In: which slots' likeliest tokens are the target's, for every anchor of an answer at temperature 0. Out:
tokens committed a round. What is drafted after a wrong draft is never looked at, so that replaying the answer is exact.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.training.answers import DOMAINS, Answers
from engine.training.batches import Batches
from engine.training.objective import Objective


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Accepted lengths, the target's own token included; the mean is over the domains."""

    by_domain: dict[str, float]
    accepted: list[float]  # of each slot, the share of draws at temperature 1 that would be accepted

    @property
    def mean(self) -> float:
        return sum(self.by_domain.values()) / len(self.by_domain) if self.by_domain else 0.0


def replay(hits: Tensor) -> tuple[int, int]:
    """Rounds and tokens committed in them: `hits` [A, n] of consecutive anchors, the answer's first in front."""
    leading = hits.long().cumprod(dim=1).sum(dim=1).tolist()
    rounds = at = 0
    while at < len(leading):
        at += leading[at] + 1
        rounds += 1
    return rounds, len(leading)


@torch.no_grad()
def measure(objective: Objective, batches: Batches, answers: Answers, conversations: Ordered[int]) -> HeldOut:
    """Replay these conversations."""
    rounds: dict[str, int] = {}
    tokens: dict[str, int] = {}
    accepted, counted = torch.zeros(batches.num_slots), torch.zeros(batches.num_slots)
    for one in conversations:
        batch = batches.of([one], None)
        scores = objective(batch, objective.divisor(batch))
        name = DOMAINS[int(answers.domain[one])]
        more = replay(scores.hits.cpu())
        rounds[name], tokens[name] = rounds.get(name, 0) + more[0], tokens.get(name, 0) + more[1]
        accepted += scores.accepted.cpu()
        counted += scores.counted.cpu()
    by_domain = {name: tokens[name] / rounds[name] for name in sorted(rounds)}
    return HeldOut(by_domain, (accepted / counted.clamp_min(1)).tolist())
