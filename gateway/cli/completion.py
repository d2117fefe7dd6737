"""What the shell completes beyond commands and options: models, task shapes, keys, tasks, policy versions, runs.

In: what was typed so far. Out: names, with a word on each. They come from sparkgate.yaml, and from a database that runs
already; none is started, and where anything goes wrong nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from gateway.cli import options

Offer = tuple[str, str]
Complete = Callable[[typer.Context, str], list[Offer]]
MOST = 50

_KEYS = """
SELECT name, scope || CASE WHEN revoked_at IS NULL THEN '' ELSE ', revoked' END FROM api_keys
WHERE starts_with(name, :begun) ORDER BY revoked_at NULLS FIRST, name LIMIT :most
"""
_TASKS = """
SELECT task_id, coalesce(workflow, caller) FROM tasks
WHERE starts_with(task_id, :begun) ORDER BY first_seen_at DESC LIMIT :most
"""
_VERSIONS = """
SELECT hash, to_char(max(published_at), 'YYYY-MM-DD HH24:MI') FROM policies
WHERE starts_with(hash, :begun) GROUP BY hash ORDER BY max(published_at) DESC LIMIT :most
"""
_RUNS = """
SELECT id::text, kind || to_char(started_at, ' YYYY-MM-DD HH24:MI') FROM bench_runs
WHERE starts_with(id::text, :begun) ORDER BY started_at DESC LIMIT :most
"""


def shapes(begun: str) -> list[Offer]:
    from router.shapes import SHAPES

    return _beginning(begun, dict.fromkeys(SHAPES, "task shape"))


def models(context: typer.Context, begun: str) -> list[Offer]:
    """What an app may ask for: auto, auto/<shape>, targets, the names under `models`."""
    from router.shapes import SHAPES

    known = {"auto": "routed"}
    with suppress(Exception):
        deployment = options.loaded_deployment(_path(context, "config")).deployment
        known |= {target.name: f"target of kind {target.kind}" for target in deployment.effective_targets}
        known |= {name: "of models:" for name in deployment.models if "*" not in name}
    return _beginning(begun, known | {f"auto/{shape}": "routed as this shape" for shape in SHAPES})


def keys(context: typer.Context, begun: str) -> list[Offer]:
    return _stored(context, _KEYS, begun)


def tasks(context: typer.Context, begun: str) -> list[Offer]:
    return _stored(context, _TASKS, begun)


def versions(context: typer.Context, begun: str) -> list[Offer]:
    return _stored(context, _VERSIONS, begun)


def runs(context: typer.Context, begun: str) -> list[Offer]:
    return _beginning(begun, {"latest": "the newest", "latest~1": "the one before"}) + _stored(
        context, _RUNS, begun
    )


def _beginning(begun: str, known: Mapping[str, str]) -> list[Offer]:
    return [(name, what) for name, what in known.items() if name.startswith(begun)]


def _stored(context: typer.Context, query: str, begun: str) -> list[Offer]:
    """Rows of a database that runs. A shell that waits for a name shows no error, so there is none."""
    with suppress(Exception):
        return list(_rows(context, query, begun))
    return []


def _rows(context: typer.Context, query: str, begun: str) -> Iterator[Offer]:
    from sqlalchemy import text

    from gateway.ledger.database import create_engine, resolve_url

    database_url = options.loaded_deployment(_path(context, "config")).deployment.database_url
    data_dir = _path(context, "data_dir") or options.DATA_DIR
    engine = create_engine(resolve_url(database_url, data_dir), application="sparkgate completion")
    try:
        with engine.connect() as connection:
            for name, what in connection.execute(text(query), {"begun": begun, "most": MOST}):
                yield str(name), str(what)
    finally:
        engine.dispose()


def _path(context: typer.Context, option: str) -> Path | None:
    given: Any = context.params.get(option)
    return None if given is None else Path(given).expanduser()
