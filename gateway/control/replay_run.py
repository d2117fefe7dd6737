"""One replay from the ledger to its report: reads the recorded calls, feeds them to `Replay`, says what came of it.

In: a database, the catalog, a policy, a span. Out: a JSON value, with everything it cannot know said in words. Gives
way to the event loop after every few calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config.load import load_policy
from gateway.config.mistakes import ConfigError
from gateway.control.replay import WARM_UP_S, Replay
from gateway.control.replay_figures import Notes, ShapeReport, reports
from gateway.ledger import policies, recorded
from gateway.ledger.recorded import CHUNK, Span
from router.catalog import Catalog
from router.policy import Policy

WARM_UP_CALLS = 20_000
BREATH = 20  # calls decided in one go: about two milliseconds
Progress = Callable[[int, int], None]  # calls done, calls in all


async def replay(
    database: AsyncEngine,
    catalog: Catalog,
    policy: Policy,
    since: datetime,
    until: datetime,
    limit: int,
    progress: Progress = lambda done, of: None,
    chunk_calls: int = CHUNK,
) -> dict[str, Any]:
    """The newest `limit` calls of the span under `policy`, read so many at once. No calls is a report too."""
    span = await recorded.span(database, since, until, limit)
    async with database.connect() as connection:
        texts = await policies.texts_by_hash(connection)
    told = Replay(catalog, policy, cache(lambda version: _read(texts.get(version))))
    before = await recorded.span(
        database, span.since - timedelta(seconds=WARM_UP_S), span.since, WARM_UP_CALLS
    )
    async for chunk in recorded.calls(database, before.lower, span.lower, chunk_calls):
        for call in chunk:
            told.warm(call)
        await asyncio.sleep(0)
    done = 0
    async for chunk in recorded.calls(database, span.lower, span.upper, chunk_calls):
        for start in range(0, len(chunk), BREATH):
            for call in chunk[start : start + BREATH]:
                told.add(call)
            await asyncio.sleep(0)
        done += len(chunk)
        progress(done, max(done, span.calls))
    by_shape, overall, notes = await asyncio.to_thread(reports, told.played, told.shadows)
    return {
        "object": "policy.replay",
        "policy": policy.hash,
        "since": span.since.isoformat() if span.is_cut else since.isoformat(),
        "until": until.isoformat(),
        "recorded_calls": done,
        "reproduced_share": told.agreed / told.compared if told.compared else None,
        "all": asdict(overall),
        "shapes": [asdict(report) for report in by_shape],
        "notes": list(_words(told, span, overall, notes)),
    }


def _read(text: str | None) -> Policy | None:
    """A stored version, whatever targets it names; None for one that is not there or that this release cannot read."""
    if text is None:
        return None
    try:
        return load_policy(text, "policy", None)
    except ConfigError:
        return None


def _words(told: Replay, span: Span, overall: ShapeReport, notes: Notes) -> list[str]:
    """What to bear in mind, the counted first."""
    unsaid = told.unsaid
    counted = [
        (span.is_cut, f"Only the newest {span.calls} calls of the span were read; --limit reads more."),
        (unsaid.undecided, "were refused before any decision or answered from the cache: left out"),
        (
            overall.unknown,
            "would go where no such call was recorded, or to nobody: their outcome is unknown, and they are left out "
            "of both sides of the figures",
        ),
        (
            unsaid.rule,
            "a rule asks for headers or metadata, which the ledger does not keep, or the rule that set their shape is "
            "gone: the recorded shape was kept",
        ),
        (
            unsaid.role,
            "have candidates by role in this policy, and a role did not count before, so that it was not kept: "
            "taken as without one",
        ),
        (
            unsaid.abilities,
            "would go to a target that may lack an ability they need; the ledger does not tell",
        ),
        (notes.far, "take the outcome of a call more than an hour away"),
        (notes.unlike, "take the outcome of a call more than twice as long or short"),
        (
            notes.cut_by_new,
            "would have run into a deadline that is shorter now: they count as timeouts and failures",
        ),
        (notes.freed_by_new, "ran into a deadline that is longer now: they stay as they ended"),
        *(
            (calls, f"ask for '{name}', which is refused today: left out")
            for name, calls in told.unknown_models.items()
        ),
    ]
    said = [text if number is True else f"{number} calls {text}." for number, text in counted if number]
    if overall.moved:
        said.append(
            "A target answers here as it did under its recorded load: what more calls would do to one, or fewer to "
            "another, cannot be told from the ledger."
        )
        said.append(
            "What followed a failed first try is as recorded, engines' own reports of their queues and callers' hints "
            "are not kept, and intervals speak of chance alone."
        )
    return said
