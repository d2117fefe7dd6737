"""What a step costs by its number of rows: measured before serving, corrected by every step since.

log seconds = form(rows) + height(sequences). The form is the machine's and the model's (how far more rows
are nearly free) and is measured once; the height follows the lengths of contexts and what else the
machine does. Each step corrects the height fast and the form slowly, so that a curve that was measured
beside a busy neighbour does not stay. Choosing tokens costs by the row, more where they are drawn. Pure
arithmetic, no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate

_HEIGHT_WEIGHT = 0.1  # of the newest step
_FORM_WEIGHT = 0.03
_LEAST_S = 1e-6  # what no clock tells from nothing


class StepCosts:
    """Seconds of a step. `curve`: seconds of the target's pass, measured at some numbers of rows."""

    def __init__(self, curve: Mapping[int, float]) -> None:
        self._rows = sorted(curve)
        self._form = [math.log(max(curve[rows], _LEAST_S)) for rows in self._rows]
        self._knots = self._rising()
        self._heights: dict[int, float] = {}
        self._row_s: dict[bool, float] = {}  # of choosing a token, by whether all are greedy

    @property
    def curve(self) -> dict[int, float]:
        """The form in seconds, with what it has learned: what a later start may begin with."""
        return dict(zip(self._rows, self._knots, strict=True))

    def steps_s(self, num_sequences: int, num_rows: int, most_extra: int, *, is_greedy: bool) -> list[float]:
        """Predicted seconds of a step with `num_rows` and 0 to `most_extra` rows more."""
        row_s, scale = self._row_s.get(is_greedy, 0.0), math.exp(self._height(num_sequences))
        return [
            scale * self._seconds(rows) + row_s * rows for rows in range(num_rows, num_rows + most_extra + 1)
        ]

    def observe(
        self, num_sequences: int, num_rows: int, verify_s: float, sample_s: float, *, is_greedy: bool
    ) -> None:
        """A step has taken so long for the target's pass and for choosing tokens."""
        height = self._height(num_sequences)
        surprise = math.log(max(verify_s, _LEAST_S) / self._seconds(num_rows)) - height
        if not self._heights:  # the first step of all sets the height
            self._heights[num_sequences], surprise = height + surprise, 0.0
        self._heights[num_sequences] = self._height(num_sequences) + _HEIGHT_WEIGHT * surprise
        left, share = self._place(num_rows)
        self._form[left] += _FORM_WEIGHT * surprise * max(0.0, 1.0 - share)
        if share > 0.0:
            self._form[left + 1] += _FORM_WEIGHT * surprise * min(1.0, share)
        self._knots = self._rising()
        row_s = sample_s / num_rows
        known = self._row_s.get(is_greedy, row_s)
        self._row_s[is_greedy] = known + _HEIGHT_WEIGHT * (row_s - known)

    def _height(self, num_sequences: int) -> float:
        if not self._heights:
            return 0.0
        nearest = min(self._heights, key=lambda known: abs(known - num_sequences))
        return self._heights[nearest]

    def _rising(self) -> list[float]:
        """The form in seconds; where more rows seemed to cost less, that was noise."""
        return list(accumulate((math.exp(logarithm) for logarithm in self._form), max))

    def _seconds(self, num_rows: int) -> float:
        """The form's: linear between what was measured, and beyond its end."""
        left, share = self._place(num_rows)
        if share == 0.0:
            return self._knots[left]
        return self._knots[left] + share * (self._knots[left + 1] - self._knots[left])

    def _place(self, num_rows: int) -> tuple[int, float]:
        """The measured number to the left, and how far it is to the next (beyond the last: above 1)."""
        rows = self._rows
        if len(rows) == 1 or num_rows <= rows[0]:
            return 0, 0.0
        left = min(bisect_right(rows, num_rows), len(rows) - 1) - 1
        return left, (num_rows - rows[left]) / (rows[left + 1] - rows[left])
