"""What an engine's samples say, as values and tables of numbers. Pure: frames of `queries` in, frames out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboard.latency import cuts

_FIGURES = ("accepted_length", "proposal_length", "verified_length", "waste")


def newest(states: pd.DataFrame, column: str) -> dict[str, Any]:
    """The newest mapping in a column of `states`; {} without any."""
    known = [value for value in states[column] if isinstance(value, dict)]
    return known[-1] if known else {}


def over_time(states: pd.DataFrame, column: str) -> pd.DataFrame:
    """Indexed by at: the numbers of the mappings in a column, one column a key."""
    rows = [value if isinstance(value, dict) else {} for value in states[column]]
    numbers = [{key: it for key, it in row.items() if isinstance(it, int | float)} for row in rows]
    return pd.DataFrame(numbers, index=states["at"], dtype=float)


def by_band(speculation: Mapping[str, Any]) -> pd.DataFrame:
    """Columns dimension, band and the figures of speculation: one row for each band that had rounds."""
    rows = [
        {"dimension": dimension, "band": band} | {name: counts.get(name) for name in _FIGURES}
        for dimension, bands in (speculation.get("by") or {}).items()
        for band, counts in bands.items()
    ]
    return pd.DataFrame(rows, columns=["dimension", "band", *_FIGURES])


def concurrency(
    buckets: pd.DataFrame, speculation: Mapping[str, Any], names: tuple[str, ...]
) -> pd.DataFrame:
    """One row a band of running sequences, in order: `band`, its accepted length and waste, its latencies.

    Latency columns are those of `latency.cuts.table`.
    """
    latencies = cuts.table(buckets, ["band"]).sort_values("band")
    yields = (speculation.get("by") or {}).get("concurrency") or {}
    labels = [names[int(band)] for band in latencies["band"]]
    return latencies.assign(
        band=labels,
        accepted_length=[(yields.get(label) or {}).get("accepted_length") for label in labels],
        waste=[(yields.get(label) or {}).get("waste") for label in labels],
    )


def usd_per_mtok(load: pd.DataFrame, tokens: pd.DataFrame, usd_per_hour: float) -> pd.DataFrame:
    """Indexed by at: `used`, what a million output tokens cost with the idle time between them, and `decoding`,
    what they would at the measured decode rate of a busy engine. NaN where nothing was answered.
    """
    rows = load.set_index("at")
    made = tokens.set_index("at")["output_tokens"].reindex(rows.index).astype(float)
    rate = rows["decode_tokens_per_s"].astype(float)
    return pd.DataFrame(
        {
            "used": 1e6 * usd_per_hour * rows["minutes_up"] / 60 / made.where(made > 0),
            "decoding": 1e6 * usd_per_hour / 3600 / rate.where(rate > 0),
        }
    )
