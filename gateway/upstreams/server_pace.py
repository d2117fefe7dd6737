"""`Pace`: what a server's readings come to over time, in the words of an engine's `/state`.

In: one `Reading` after the other, with its moment. Out: the state: load as of now; rates and what speculation yields
over a window, as last known while nothing happens. A counter that falls tells of a restart: all is forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from gateway.upstreams.server_metrics import Kind, Reading

WINDOW_S = 60.0  # of prefill, drafts and the prefix cache; before that, since the server's start
KEPT = 0.9  # of a rate's weight, from one reading to the next with something new
LONG_PROMPT_TOKENS = 256  # shorter ones, in the mean, tell of a step rather than of how fast prompts are read
EXACT_SIZES = 4  # steps are kept by the number of sequences, beyond this by powers of two
_COUNTERS = ("generated", "interval_s", "intervals", "prefill_s", "drafts", "accepted")
_NOTHING = Reading()


@dataclass(slots=True)
class _Rate:
    """So much a second, the newest most."""

    amount: float = 0.0
    seconds: float = 0.0

    def add(self, amount: float, seconds: float) -> None:
        if amount > 0.0 and seconds > 0.0:
            self.amount, self.seconds = self.amount * KEPT + amount, self.seconds * KEPT + seconds

    @property
    def per_s(self) -> float:
        return self.amount / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class Pace:
    """One server."""

    kind: Kind
    max_batch: int
    _window: deque[tuple[float, Reading]] = field(default_factory=lambda: deque([(-math.inf, _NOTHING)]))
    _newest: tuple[float, Reading] | None = None
    _intervals: dict[int, _Rate] = field(default_factory=dict)
    _decode: _Rate = field(default_factory=_Rate)
    _prefill_tokens_per_s: float = 0.0
    _speculation: dict[str, Any] = field(default_factory=dict)
    _hit_rate: float | None = None

    def look(self, reading: Reading, now: float) -> dict[str, Any]:
        """The state with this newest reading; `max_context_tokens` and the model's name are not told here."""
        if self._newest is not None and _has_restarted(self._newest[1], reading):
            self._forget()
        if self._newest is not None:
            self._learn_rates(*self._newest, reading, now)
        self._newest = now, reading
        self._window.append((now, reading))
        while self._window[1][0] <= now - WINDOW_S:
            self._window.popleft()
        self._learn_prefill(self._window[0][1], reading)
        self._learn_yields(self._window[0][1], reading)
        return self._state(reading)

    def _forget(self) -> None:
        fresh = Pace(self.kind, self.max_batch)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def _learn_rates(self, then: float, before: Reading, reading: Reading, now: float) -> None:
        running = (_of(before.running) + _of(reading.running)) / 2
        intervals = self._intervals.setdefault(_size(running), _Rate())
        intervals.add(_grown("intervals", before, reading), _grown("interval_s", before, reading))
        if reading.throughput is not None:
            self._decode.add(reading.throughput * (now - then), now - then)
        elif before.running and reading.running:
            self._decode.add(_grown("generated", before, reading), now - then)

    def _learn_prefill(self, before: Reading, reading: Reading) -> None:
        tokens, seconds = _grown("prefill_tokens", before, reading), _grown("prefill_s", before, reading)
        if seconds > 0.0 and tokens >= LONG_PROMPT_TOKENS * _grown("prefills", before, reading) > 0.0:
            self._prefill_tokens_per_s = tokens / seconds

    def _learn_yields(self, before: Reading, reading: Reading) -> None:
        """Of speculation and of the prefix cache."""
        if asked := _grown("cache_asked", before, reading):
            self._hit_rate = _grown("cache_hits", before, reading) / asked
        elif reading.hit_rate is not None:
            self._hit_rate = reading.hit_rate
        drafts, drafted = _grown("drafts", before, reading), _grown("drafted", before, reading)
        if drafts > 0.0:
            accepted = _grown("accepted", before, reading)
            self._speculation = {
                "accepted_length": round(1.0 + accepted / drafts, 4),
                "proposal_length": round(drafted / drafts, 4),
                "waste": round(1.0 - accepted / drafted, 4) if drafted else None,
            }
        elif told := [one for _, seen in self._window if (one := _of(seen.committed)) >= 1.0]:
            self._speculation = {"accepted_length": round(sum(told) / len(told), 4)}

    def _state(self, reading: Reading) -> dict[str, Any]:
        # SGLang tells of tokens, which come several a step.
        a_step = self._speculation.get("accepted_length", 1.0) if self.kind == "sglang" else 1.0
        return {
            "running": round(_of(reading.running)),
            "waiting": round(_of(reading.waiting)),
            "max_batch": self.max_batch,
            "kv_used_fraction": reading.kv_used,
            "prefix_hit_rate": self._hit_rate,
            "prefill_tokens_per_s": round(self._prefill_tokens_per_s, 2),
            "decode_tokens_per_s": round(self._decode.per_s, 2),
            "steps_per_s": {
                str(size): round(rate.per_s / a_step, 3)
                for size, rate in sorted(self._intervals.items())
                if rate.per_s
            },
            "drafter": self.kind if self._speculation else None,
            "speculation": self._speculation,
        }


def _of(figure: float | None) -> float:
    return 0.0 if figure is None else figure


def _grown(counter: str, before: Reading, reading: Reading) -> float:
    return _of(getattr(reading, counter)) - _of(getattr(before, counter))


def _has_restarted(before: Reading, reading: Reading) -> bool:
    return any(_grown(counter, before, reading) < 0.0 for counter in _COUNTERS)


def _size(running: float) -> int:
    exact = max(1, round(running))
    return exact if exact <= EXACT_SIZES else 2 ** round(math.log2(exact))
