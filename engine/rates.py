"""How fast steps are and places become free: measured figures to predict from. Pure arithmetic, no clock.

Each figure is an exponentially weighted mean of seconds, so that old load fades with newer steps.
"""

from __future__ import annotations

from collections.abc import Iterable

_WEIGHT = 0.1  # of the newest step: the figure is about its last twenty steps
_KEPT = 0.95  # of what was known, at each end of a sequence: the figure is about the last twenty ends


class StepRates:
    """Seconds a decode step takes, by batch size, and a prefill token takes."""

    def __init__(self) -> None:
        self._step_s: dict[int, float] = {}
        self._prefill_token_s: float | None = None
        self._decode_token_s: float | None = None
        self._tokens_a_step: float | None = None  # of each sequence: more than one with accepted drafts

    def observe(self, num_decoding: int, num_prefilled: int, num_tokens: int, seconds: float) -> None:
        """One step with so many decoding sequences and prefill tokens, which added `num_tokens` to answers.

        A mixed step counts as prefill.
        """
        if num_prefilled:
            self._prefill_token_s = _mean(self._prefill_token_s, seconds / num_prefilled)
        elif num_decoding:
            self._step_s[num_decoding] = _mean(self._step_s.get(num_decoding), seconds)
            self._tokens_a_step = _mean(self._tokens_a_step, num_tokens / num_decoding)
            self._decode_token_s = _mean(self._decode_token_s, seconds / max(1, num_tokens))

    @property
    def steps_per_s(self) -> dict[int, float]:
        """Decode steps a second at each batch size seen, smallest size first."""
        return {size: 1.0 / seconds for size, seconds in sorted(self._step_s.copy().items())}

    @property
    def prefill_tokens_per_s(self) -> float:
        return 1.0 / self._prefill_token_s if self._prefill_token_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Over all sequences of the recent decode steps together."""
        return 1.0 / self._decode_token_s if self._decode_token_s else 0.0

    def finish_s(self, num_prefill: int, num_decode: int, num_running: int) -> float | None:
        """Seconds until a sequence with so many tokens to read and to write ends, among `num_running`.

        None before a decode step was measured. Of batch sizes never seen the nearest one speaks.
        """
        steps = self._step_s.copy()
        if not steps:
            return None
        nearest = min(steps, key=lambda size: abs(size - num_running))
        num_steps = num_decode / (self._tokens_a_step or 1.0)
        return num_steps * steps[nearest] + num_prefill * (self._prefill_token_s or 0.0)


class EndRate:
    """How long it takes, while the engine computes, until the next sequence ends.

    Time ÷ ends, the time since the last end included: the maximum-likelihood estimate where waits are
    exponential, which also makes the expected wait the same at any moment.
    """

    def __init__(self) -> None:
        self._busy_s, self._num_ended = 0.0, 0.0

    def observe(self, num_ended: int, seconds: float) -> None:
        """One step, and how many sequences ended with it."""
        kept = _KEPT**num_ended
        self._busy_s = (self._busy_s + seconds) * kept
        self._num_ended = (self._num_ended + num_ended) * kept

    @property
    def mean_s(self) -> float | None:
        """None before the first end."""
        return self._busy_s / self._num_ended if self._num_ended else None


def least(figures: Iterable[float | None]) -> float | None:
    """The smallest figure known."""
    return min((figure for figure in figures if figure is not None), default=None)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
