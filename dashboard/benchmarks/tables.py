"""The benchmarks page's table. In: rows of `readings`. Out: HTML."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pandas as pd

from dashboard import figures, markup
from dashboard.markup import Column, Content, Html


def readings(rows: pd.DataFrame, zone: ZoneInfo, key: str) -> Html:
    columns = [
        Column("Run began"),
        Column("Series"),
        Column("Figure"),
        Column("Value", True),
        Column("Median before", True, "of up to five comparable runs; at least two"),
        Column("Change", True),
        Column(""),
    ]
    body: list[list[Content]] = []
    for row in rows.to_dict("records"):
        known = not figures.is_absent(row["change"])
        body.append(
            [
                f"{row['started_at'].astimezone(zone):%d %b %Y %H:%M}",
                row["series"],
                row["figure"],
                f"{row['value']:.4g} {row['unit']}",
                f"{row['before']:.4g}" if not figures.is_absent(row["before"]) else figures.NONE,
                f"{100 * row['change']:+.1f} %" if known else figures.NONE,
                markup.pill("regression", "bad") if row["regression"] else "",
            ]
        )
    return markup.table(columns, body, key)
