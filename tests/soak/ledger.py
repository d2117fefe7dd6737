"""What of a soak run is in Postgres: whether every call is there once, and how long calls took over time."""

from __future__ import annotations

import time

from sqlalchemy import Connection, text

from gateway.ledger import embedded
from gateway.ledger.database import create_engine
from tests.soak.traffic import Seen
from tests.soak.verdict import Run, Slice
from tests.system.product import Product

DRAINED_WITHIN_S = 300.0
SLICE_S = 10

_SLICES = """
SELECT floor(extract(epoch FROM started_at - to_timestamp(:since)) / :slice_s) * :slice_s, count(*),
       percentile_cont(0.99) WITHIN GROUP (ORDER BY overhead_s),
       percentile_cont(0.99) WITHIN GROUP (ORDER BY ttft_s)
FROM exchanges
WHERE started_at BETWEEN to_timestamp(:since) AND to_timestamp(:until) AND model_asked = 'auto' AND status = 200
GROUP BY 1 ORDER BY 1
"""


def settle(product: Product) -> None:
    """Waits until the drain has written all. Raises TimeoutError."""
    deadline = time.monotonic() + DRAINED_WITHIN_S
    spool = product.data_dir / "spool"
    while [path for path in spool.iterdir() if path.suffix in (".open", ".ready") and path.stat().st_size]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"records still wait in {spool} after {DRAINED_WITHIN_S:g} s")
        time.sleep(0.2)
    time.sleep(1.0)


def policies(url: str) -> int:
    """Versions that were published."""
    engine = create_engine(url)
    with engine.connect() as connection:
        count = connection.scalar(text("SELECT count(*) FROM policies WHERE error IS NULL"))
    engine.dispose()
    return int(count or 0)


def compare(product: Product, run: Run, seen: Seen, since: float, policies_before: int) -> None:
    """Fills in what of `run` only the ledger knows. `since`: when the load began, Unix time."""
    url = embedded.running_url(product.data_dir)
    if url is None:
        raise RuntimeError("Postgres does not run any more")
    run.policies = policies(url) - policies_before
    engine = create_engine(url)
    with engine.connect() as connection:
        _count_rows(connection, run, seen)
        run.outcome_rows = connection.scalar(text("SELECT count(*) FROM outcomes")) or 0
        spans = {"since": since, "until": since + run.seconds, "slice_s": SLICE_S}
        for at_s, calls, overhead_s, ttft_s in connection.execute(text(_SLICES), spans):
            run.slices.append(Slice(float(at_s), calls, overhead_s, ttft_s))
    engine.dispose()
    aside = product.data_dir / "spool" / "quarantine"
    run.quarantined = sum(1 for path in aside.glob("*") for _ in path.open("rb")) if aside.is_dir() else 0


def _count_rows(connection: Connection, run: Run, seen: Seen) -> None:
    met: set[int] = set()
    count = 0
    rows = connection.execution_options(yield_per=50_000).execute(text("SELECT id FROM exchanges"))
    for (key,) in rows:
        count += 1
        if key.int in seen.ids:
            met.add(key.int)
    run.rows = len(met)
    run.doubled = count - (connection.scalar(text("SELECT count(DISTINCT id) FROM exchanges")) or 0)
