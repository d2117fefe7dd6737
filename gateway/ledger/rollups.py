"""What exchanges and attempts add to the ledger's sums and histograms: `Sums` of one batch. Pure: rows in, rows out.

In: rows as `ledger.records` makes them, of exchanges and attempts that were really inserted. Out: rows by table, in
the order of their keys. ValueError, TypeError, KeyError or ArithmeticError for a row that cannot be summed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import add
from typing import Any
from uuid import UUID

from sqlalchemy import Numeric, Table

from gateway.ledger import tables
from gateway.ledger.records import SHADOW, nusd, usd
from router.histogram import bucket

Row = dict[str, Any]
LONG_TOKENS = 300  # an answer of more is worth streaming
WORKFLOWS = 100  # told apart in an hour
OTHER = "(other)"
SPAN_S = 60
_NAME_LENGTH, _KIND_LENGTH = 256, 120  # of what is part of a key; callers may name workflows as they like
_NUMBER = re.compile(r"[0-9]+(?:[.][0-9]+)?")


class Workflows:
    """Names of workflows as sums have them: beyond the first hundred of an hour they are one."""

    def __init__(self) -> None:
        self._hours: dict[str, set[str]] = {}

    def named(self, hour: str, name: str | None) -> str:
        if not name:
            return ""
        name = name[:_NAME_LENGTH]
        if hour not in self._hours and len(self._hours) >= WORKFLOWS:
            self._hours.clear()  # more hours than a drain that keeps up ever sees at once
        known = self._hours.setdefault(hour, set())
        if name not in known:
            if len(known) >= WORKFLOWS:
                return OTHER
            known.add(name)
        return name


class Sums:
    """Of one batch; sums are by the minute. Money in nano-dollars until it is a row."""

    def __init__(self, workflows: Workflows) -> None:
        self._workflows = workflows
        self._calls: dict[tuple[Any, ...], Sequence[float]] = {}
        self._attempts: dict[tuple[Any, ...], Sequence[float]] = {}
        self._usage: dict[tuple[Any, ...], Sequence[float]] = {}
        self._choices: Counter[tuple[Any, ...]] = Counter()
        self._rejections: Counter[tuple[Any, ...]] = Counter()
        self._examples: dict[tuple[Any, ...], str] = {}
        self._histograms: defaultdict[tuple[Any, ...], Counter[int]] = defaultdict(Counter)

    def add(self, row: Row, attempts: list[Row]) -> None:
        """An exchange and the attempts made for it."""
        at, shape, target = _minute(row["started_at"]), row.get("shape") or "", row.get("target")
        self._add_call(at, shape, row)
        self._add_decision(at, shape, row.get("decision"), target)
        if target is not None:
            for metric, seconds in _latencies(row):
                self._histograms[at, target, shape or "general", metric][bucket(seconds)] += 1
        roles = {each.get("target"): each.get("role") for each in _listed(row.get("decision"), "candidates")}
        tokens = spent = unpriced = 0
        for attempt in attempts:
            cost = nusd(attempt.get("cost_usd"))
            tokens += (attempt.get("input_tokens") or 0) + (attempt.get("output_tokens") or 0)
            spent, unpriced = spent + (cost or 0), unpriced + (cost is None)
            self._add_attempt(
                attempt, shape, roles.get(attempt["target"]) or "", attempt["ordinal"] > 0, cost
            )
        _plus(self._usage, (at[:10], row["caller"]), (1, tokens, spent, unpriced))

    def add_shadow(self, attempt: Row, shape: str | None) -> None:
        """An attempt made on trial, beside an exchange of that shape."""
        self._add_attempt(attempt, shape or "", SHADOW, False, nusd(attempt.get("cost_usd")))

    def rows(self) -> dict[Table, list[Row]]:
        """To be added to those that are there already."""
        return {
            tables.quota_usage: _rows(tables.quota_usage, self._usage),
            tables.call_sums: _rows(tables.call_sums, _spanned(self._calls)),
            tables.attempt_sums: _rows(tables.attempt_sums, _spanned(self._attempts)),
            tables.choice_sums: _rows(
                tables.choice_sums, _spanned({key: (n,) for key, n in self._choices.items()})
            ),
            tables.rejection_sums: _rows(
                tables.rejection_sums,
                _spanned({key: (n, self._examples[key]) for key, n in self._rejections.items()}),
            ),
        }

    def histogram_rows(self, batch_id: UUID) -> list[Row]:
        """Of `latency_histograms`: new ones, as their batch is part of their key."""
        names = ("minute", "target", "shape", "metric")
        return [
            {**dict(zip(names, key, strict=True)), "batch_id": batch_id, "span_s": SPAN_S}
            | {"k": (ks := sorted(counts)), "n": [counts[k] for k in ks]}
            for key, counts in sorted(self._histograms.items())
        ]

    def _add_call(self, at: str, shape: str, row: Row) -> None:
        status, error, stream = row["status"], row.get("error_code"), row["stream"]
        is_gone = status == 499 or error == "client_gone"
        tokens, cost, attempts = _tokens(row), nusd(row.get("cost_usd")), row["attempts"]
        is_long = not stream and tokens[3] > LONG_TOKENS
        workflow = self._workflows.named(at[:13], row.get("workflow"))
        _plus(
            self._calls,
            (at, row.get("target") or "", shape, row["endpoint"], workflow),
            (
                1,
                not is_gone and (status >= 400 or error is not None),
                row.get("timed_out") is not None,
                is_gone,
                stream,
                row.get("cache") is not None,
                is_long,
                row["total_s"] if is_long else 0,
                attempts,
                attempts > 1,
                *tokens,
                cost or 0,
                cost is None,
                nusd(row.get("saved_usd")) or 0,
            ),
        )

    def _add_attempt(self, row: Row, shape: str, role: str, is_further: bool, cost: int | None) -> None:
        key = (_minute(row["started_at"]), row["target"], shape, role, row["result"], is_further)
        _plus(self._attempts, key, (1, row["total_s"], *_tokens(row), cost or 0, cost is None))

    def _add_decision(self, at: str, shape: str, decision: Any, target: str | None) -> None:
        chosen, why = choice(decision)
        self._choices[at, shape, chosen, why, (target or "") != chosen] += 1
        for passed in _listed(decision, "rejections"):
            reason = passed.get("reason") or ""
            key = (at, shape, passed.get("target") or "", _kind(reason))
            self._rejections[key] += 1
            self._examples[key] = reason


def choice(decision: Any) -> tuple[str, str]:
    """The target that a decision's JSON puts first, and why, in a word (see `router.reason` for the sentence)."""
    if decision is None:
        return "", "refused"
    candidates = _listed(decision, "candidates")
    if not candidates:
        return "", "none"
    first = candidates[0]
    return first.get("target") or "", _why(decision, first, candidates[1] if len(candidates) > 1 else None)


def _why(decision: Row, first: Row, second: Row | None) -> str:
    role, reason = first.get("role"), decision.get("reason") or ""
    if decision.get("explored"):
        return "explored"
    if reason.startswith("the model name pins"):
        return "pinned"
    if role == "fallback":
        return "relief" if reason.startswith("under its load") else "fallback"
    if role in ("weighted", "sticky"):
        return str(role)
    if second is None or second.get("role") == "fallback":
        return "only"
    return "slo" if second.get("slo_misses") and not first.get("slo_misses") else "score"


def _latencies(row: Row) -> Iterator[tuple[str, float]]:
    """(metric, seconds): first token and time per output token of streams, the whole of successes."""
    ttft_s, total_s, output_tokens = row.get("ttft_s"), row["total_s"], row.get("output_tokens")
    if row["stream"] and ttft_s is not None:
        yield "ttft_s", ttft_s
        if output_tokens is not None and output_tokens >= 2 and total_s > ttft_s:
            yield "tpot_s", (total_s - ttft_s) / (output_tokens - 1)
    if row["status"] == 200 and row.get("error_code") is None:
        yield "total_s", total_s


def _listed(decision: Any, name: str) -> list[Row]:
    listed = decision.get(name) if isinstance(decision, dict) else None
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def _tokens(row: Row) -> tuple[int, int, int, int, int]:
    get = row.get
    return (
        get("input_tokens") or 0,
        get("cached_tokens") or 0,
        get("cache_write_tokens") or 0,
        get("output_tokens") or 0,
        get("reasoning_tokens") or 0,
    )


def _minute(iso: str) -> str:
    """The start of a moment's minute, both as ISO 8601; UTC."""
    if not iso.endswith("+00:00"):
        moment = datetime.fromisoformat(iso)
        iso = (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
    return iso[:16] + "+00:00"


@lru_cache(4096)
def _kind(reason: str) -> str:
    return _NUMBER.sub("…", reason)[:_KIND_LENGTH]


def _plus(
    sums: dict[tuple[Any, ...], Sequence[float]], key: tuple[Any, ...], values: Sequence[float]
) -> None:
    held = sums.get(key)
    sums[key] = values if held is None else [*map(add, held, values)]


def _spanned(sums: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], Any]:
    return {(key[0], SPAN_S, *key[1:]): values for key, values in sums.items()}


def _rows(table: Table, sums: Mapping[tuple[Any, ...], Sequence[Any]]) -> list[Row]:
    names = [str(column.name) for column in table.columns]  # plain texts, to be keys of JSON
    money = {str(it.name) for it in table.columns if isinstance(it.type, Numeric) and it.type.scale}
    rows = [dict(zip(names, (*key, *map(_whole, sums[key])), strict=True)) for key in sorted(sums)]
    for row in rows:
        row.update({name: usd(row[name]) for name in money})
    return rows


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
