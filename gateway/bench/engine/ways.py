"""The ways our engine can go that a benchmark compares: who drafts, how many drafts are verified, and their names.

In: drafters, modes and schedules, as options name them. Out: `Way`s. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

NO_DRAFTER = "none"
OFF, AUTO, FIXED = "off", "auto", "fixed"
MODES = (OFF, AUTO, FIXED, "static")  # of a request's `sparkgate.speculation`
SCHEDULES = ("prefix", "delayed")
PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Way:
    """Ways with the same `drafter` and `schedule` can share an engine; `mode` is up to each request."""

    name: str
    drafter: str
    schedule: str
    mode: str

    @property
    def drafts(self) -> bool:
        return self.mode != OFF


def ways(drafters: Sequence[str], modes: Sequence[str], schedules: Sequence[str]) -> tuple[Way, ...]:
    """Plain decoding first, if it is among the modes or no drafter among the drafters; then drafter by drafter.

    Plain decoding is one way, whatever drafters there are, on an engine without one if that is asked for.
    Schedules differ under `auto` alone. A name says its mode, and of drafter and schedule what there are several of.
    """
    drafting = [drafter for drafter in drafters if drafter != NO_DRAFTER]
    found = []
    if OFF in modes or not drafting or len(drafting) < len(drafters):
        drafter = NO_DRAFTER if NO_DRAFTER in drafters else drafters[0]
        found.append(Way(PLAIN, drafter, schedules[0], OFF))
    for drafter in drafting:
        for mode in modes:
            if mode == OFF:
                continue
            for schedule in schedules if mode == AUTO else schedules[:1]:
                words = [_short(drafter, drafting)] if len(drafting) > 1 else []
                words += [schedule] if mode == AUTO and len(schedules) > 1 else []
                found.append(Way(" ".join([*words, mode]), drafter, schedule, mode))
    return tuple(found)


def _short(drafter: str, among: Sequence[str]) -> str:
    """The last part of a path or hub id, where no other ends so."""
    name = PurePath(drafter).name
    return name if [PurePath(each).name for each in among].count(name) == 1 else drafter
