"""Experiments: candidates with a weight get exactly that share of the calls, the others the rest by score.

In: candidates in the order of their scores, weights, a uniform draw. Out: who is drawn, and a draw to go on with.
All calls of a task fall to the same arm, since they share one outcome: a hash of the task stands for the draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

from router.decision import Candidate

BELOW_ONE = 1.0 - 2.0**-53


@dataclass(slots=True)
class Arms:
    """`drawn`: the candidate under experiment that this call falls to, None = it is for the `rest`, by score.

    `spare`: the other candidates under experiment, which get none of it unless all others fail. `draw`: uniform in
    [0, 1), whatever was drawn.
    """

    drawn: Candidate | None
    rest: list[Candidate]
    spare: list[Candidate]
    draw: float


def split(
    ranked: list[Candidate], weights: tuple[tuple[str, float], ...], draw: float, task: str | None
) -> Arms:
    """A drawn target that cannot serve leaves its share to the rest; where there is no rest, to the other arms."""
    place = draw if task is None else hashed(task)
    name, width = None, 1.0
    for arm, weight in weights:
        if place < weight:
            name, width = arm, weight
            break
        place, width = place - weight, width - weight
    left = min(place / max(width, 1e-12), BELOW_ONE) if task is None else draw
    arms = dict(weights)
    rest = [candidate for candidate in ranked if candidate.target not in arms]
    drawn = [replace(candidate, role="weighted") for candidate in ranked if candidate.target == name]
    spare = [candidate for candidate in ranked if candidate.target in arms and candidate.target != name]
    if not drawn and not rest:
        rest, spare = spare, []
    return Arms(drawn[0] if drawn else None, rest, spare, left)


def hashed(task: str) -> float:
    """A uniform draw in [0, 1), the same for the same task."""
    return int.from_bytes(blake2b(task.encode("utf-8", "replace"), digest_size=6).digest()) / 2.0**48
