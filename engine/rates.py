"""How fast steps are: the measured figures the gateway predicts from. Pure arithmetic, no clock.

Each figure is an exponentially weighted mean of seconds, so that old load fades with newer steps.
"""

from __future__ import annotations

_WEIGHT = 0.1  # of the newest step: the figure is about its last twenty steps


class StepRates:
    """Seconds a decode step takes, by batch size, and a prefill token takes."""

    def __init__(self) -> None:
        self._step_s: dict[int, float] = {}
        self._prefill_token_s: float | None = None
        self._decode_token_s: float | None = None

    def observe(self, num_decoding: int, num_prefilled: int, seconds: float) -> None:
        """One step with so many decoding sequences and prefill tokens. A mixed step counts as prefill."""
        if num_prefilled:
            self._prefill_token_s = _mean(self._prefill_token_s, seconds / num_prefilled)
        elif num_decoding:
            self._step_s[num_decoding] = _mean(self._step_s.get(num_decoding), seconds)
            self._decode_token_s = _mean(self._decode_token_s, seconds / num_decoding)

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


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
