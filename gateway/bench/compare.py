"""Two benchmark runs side by side: figure by figure how much they differ, how sure that is, and what follows in words.

Runs of `bench models` keep every sample, so their figures come with a 95 % interval (see `bench.difference`); of other
kinds only the figures are compared, and no verdict is given. In: runs as they are stored. Out: `Difference`s. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway.bench.difference import (
    Groups,
    Interval,
    Statistic,
    mean,
    percentile,
    pooled,
    ratio,
    share_difference,
)
from gateway.bench.samples import Sample

Verdict = Literal["better", "worse", "no difference shown", "too few samples", "not known"]
_MODEL_SETTINGS = ("prompts", "prompts_hash", "max_tokens", "stream", "concurrency", "machine", "url")


class NotComparable(Exception):
    """Nothing in these runs can be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """A row of `bench_runs`, or a file that `--json` wrote. `label` is how its reader named it."""

    label: str
    kind: str
    started_at: str
    settings: Mapping[str, Any]
    results: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of one series in both runs. `change` is b ÷ a, of shares b − a."""

    series: str
    figure: str
    unit: str
    a: float | None
    b: float | None
    change: Interval | None
    is_share: bool = False
    higher_is_better: bool = False

    @property
    def verdict(self) -> Verdict:
        """Of b against a."""
        if self.change is None:
            return "not known"
        if self.change.low is None:
            return "too few samples"
        unchanged = 0.0 if self.is_share else 1.0
        if not self.change.excludes(unchanged):
            return "no difference shown"
        return "better" if (self.change.value > unchanged) == self.higher_is_better else "worse"


def differences(a: Run, b: Run, models: tuple[str, str] | None = None) -> list[Difference]:
    """Of all series in both runs, or of one model of a and one of b. Raises NotComparable."""
    if a.kind != b.kind:
        raise NotComparable(f"{a.label} is a run of `bench {a.kind}`, {b.label} one of `bench {b.kind}`")
    if a.kind != "models":
        if models is not None:
            raise NotComparable(f"{a.label} is a run of `bench {a.kind}`: it has no samples by model")
        return list(_of_figures(a, b))
    by_model = [_samples(run) for run in (a, b)]
    if models is None:
        both = [(name, name) for name in by_model[0] if name in by_model[1]]
        if not both:
            said = "; ".join(
                f"{run.label}: {', '.join(of)}" for run, of in zip((a, b), by_model, strict=True)
            )
            raise NotComparable(
                f"no model is in both runs ({said}). Name one of each: MODEL@{a.label} MODEL@{b.label}"
            )
    else:
        for run, of, name in zip((a, b), by_model, models, strict=True):
            if name not in of:
                raise NotComparable(f"{run.label} has no model '{name}', only {', '.join(of)}")
        both = [models]
    return [it for one, other in both for it in _of_samples(one, other, by_model[0][one], by_model[1][other])]


def conditions(a: Run, b: Run) -> list[str]:
    """The settings in which the runs differ, so that a difference may be theirs."""
    names = _MODEL_SETTINGS if a.kind == "models" else sorted({*a.settings, *b.settings})
    differ = []
    for name in names:
        one, other = a.settings.get(name), b.settings.get(name)
        if name == "machine":
            one, other = (_lasting(value) for value in (one, other))
        if one != other:
            differ.append(name)
    return differ


def sentences(found: Sequence[Difference]) -> list[str]:
    """What follows, one sentence a series."""
    return [_sentence(series, [it for it in found if it.series == series]) for series in _series(found)]


def _sentence(series: str, found: Sequence[Difference]) -> str:
    parts = []
    for verdict in ("better", "worse"):
        if figures := [_in_words(it) for it in found if it.verdict == verdict]:
            parts.append(f"B is {verdict} in {', '.join(figures)}")
    if not parts:
        parts = [
            "no difference is shown"
            if any(it.change and it.change.low is not None for it in found)
            else "nothing can be said: too few samples"
        ]
    elif any(it.verdict == "no difference shown" for it in found):
        parts.append("the rest shows no difference")
    return f"{series}: {'; '.join(parts)}."


def _in_words(it: Difference) -> str:
    assert it.change is not None
    value = f"{100 * it.change.value:+.1f} points" if it.is_share else f"{it.change.value:.2f} times"
    return f"{it.figure} ({value})"


def _series(found: Sequence[Difference]) -> list[str]:
    return list(dict.fromkeys(it.series for it in found))


def _lasting(machine: Any) -> Any:
    """Without what changes from minute to minute."""
    return (
        {key: value for key, value in machine.items() if key != "load"}
        if isinstance(machine, dict)
        else machine
    )


def _samples(run: Run) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    known = Sample.__dataclass_fields__
    for row in run.results.get("samples") or ():
        sample = Sample(**{name: value for name, value in row.items() if name in known})
        found.setdefault(sample.model, []).append(sample)
    if not found:
        raise NotComparable(f"{run.label} keeps no samples")
    return found


def _groups(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> Groups:
    groups: dict[str, list[float]] = {}
    for sample in samples:
        if (number := value(sample)) is not None:
            groups.setdefault(sample.prompt or "", []).append(number)
    return groups


def _of_samples(name_a: str, name_b: str, a: Sequence[Sample], b: Sequence[Sample]) -> Iterator[Difference]:
    series = name_a if name_a == name_b else f"{name_a} → {name_b}"
    good_a, good_b = (
        [sample for sample in a if sample.error_code is None],
        [sample for sample in b if sample.error_code is None],
    )
    for figure, unit, value, statistic, is_higher in _FIGURES:
        of_a, of_b = _groups(good_a, value), _groups(good_b, value)
        if statistic is not mean:
            of_a, of_b = pooled(of_a), pooled(of_b)
        found = _difference(series, figure, unit, of_a, of_b, statistic, is_higher)
        if found.a is not None or found.b is not None:
            yield found
    yield _share(series, "error rate", _failed(a), len(a), _failed(b), len(b), is_higher=False)
    checked_a, checked_b = _checked(a), _checked(b)
    if checked_a or checked_b:
        done_a, done_b = _completed(checked_a), _completed(checked_b)
        yield _share(
            series, "completion rate", done_a, len(checked_a), done_b, len(checked_b), is_higher=True
        )
        of_a, of_b = _cost_groups(checked_a), _cost_groups(checked_b)
        yield _difference(series, "cost per completed task", "USD", of_a, of_b, _usd_per_completed, False)


def _difference(
    series: str, figure: str, unit: str, a: Groups, b: Groups, statistic: Statistic, is_higher: bool
) -> Difference:
    values = [statistic([each for group in side.values() for each in group]) for side in (a, b)]
    change = ratio(a, b, statistic)
    return Difference(series, figure, unit, values[0], values[1], change, higher_is_better=is_higher)


def _share(
    series: str, figure: str, hits_a: int, n_a: int, hits_b: int, n_b: int, *, is_higher: bool
) -> Difference:
    a, b = (hits_a / n_a if n_a else None), (hits_b / n_b if n_b else None)
    change = share_difference(hits_a, n_a, hits_b, n_b)
    return Difference(series, figure, "share", a, b, change, is_share=True, higher_is_better=is_higher)


def _failed(samples: Sequence[Sample]) -> int:
    return sum(sample.error_code is not None for sample in samples)


def _checked(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.completed is not None]


def _completed(samples: Sequence[Sample]) -> int:
    return sum(sample.completed is True for sample in samples)


def _cost_groups(samples: Sequence[Sample]) -> Groups:
    """(USD, completed) by prompt, drawn together; nothing where a cost is not known."""
    groups: dict[str, list[tuple[float, bool]]] = {}
    for sample in samples:
        if sample.cost_usd is None:
            return {}
        groups.setdefault(sample.prompt or "", []).append((sample.cost_usd, sample.completed is True))
    return groups


def _usd_per_completed(pairs: Sequence[Any]) -> float | None:
    completed = sum(is_completed for _, is_completed in pairs)
    return sum(usd for usd, _ in pairs) / completed if completed else None


_FIGURES: tuple[tuple[str, str, Callable[[Sample], float | None], Statistic, bool], ...] = (
    ("TTFT p50", "s", lambda it: it.ttft_s, percentile(0.50), False),
    ("TTFT p95", "s", lambda it: it.ttft_s, percentile(0.95), False),
    ("completion p50", "s", lambda it: it.total_s, percentile(0.50), False),
    ("completion p95", "s", lambda it: it.total_s, percentile(0.95), False),
    ("speed p50", "tokens/s", lambda it: it.tokens_per_s, percentile(0.50), True),
    ("cost of a call", "USD", lambda it: it.cost_usd, mean, False),
)

# By kind: what names a series, and the figures of one, with whether more is better.
_KINDS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, str, bool], ...]]] = {
    "engine": (
        ("variant", "kind", "streams"),
        (
            ("decode_tokens_per_s", "tokens/s", True),
            ("ttft_p50_s", "s", False),
            ("accepted_length", "tokens", True),
        ),
    ),
    "gateway": (
        ("contestant",),
        (
            ("calls_per_s", "calls/s", True),
            ("cpu_us_per_call", "µs", False),
            ("streams_per_s", "streams/s", True),
            ("cpu_us_per_stream", "µs", False),
            ("added_ms_p99", "ms", False),
            ("rss_mb", "MB", False),
            ("start_s", "s", False),
        ),
    ),
}


def _of_figures(a: Run, b: Run) -> Iterator[Difference]:
    if a.kind not in _KINDS:
        raise NotComparable(f"runs of `bench {a.kind}` are not compared")
    keys, figures = _KINDS[a.kind]
    entries = [
        {", ".join(str(it.get(key)) for key in keys): it for it in run.results.get("figures") or ()}
        for run in (a, b)
    ]
    both = [name for name in entries[0] if name in entries[1]]
    if not both:
        raise NotComparable(f"{a.label} and {b.label} measured nothing in common")
    for name in both:
        for figure, unit, is_higher in figures:
            one, other = (entry[name].get(figure) for entry in entries)
            if isinstance(one, int | float) and isinstance(other, int | float):
                change = Interval(other / one) if one else None
                yield Difference(name, figure, unit, one, other, change, higher_is_better=is_higher)
