"""The engine page's top row and tables. In: frames and mappings of `queries` and `yields`. Out: HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboard import figures, markup
from dashboard.latency.tables import quantile
from dashboard.markup import Column, Content, Html
from dashboard.quantiles import QUANTILES


def top_row(
    load: pd.DataFrame, speculation: Mapping[str, Any], drafter: str | None, usd_per_mtok: float | None
) -> Html:
    last = load.iloc[-1]
    return markup.cards(
        [
            markup.card(
                "running", "Running", _number(last["running"]), f"{_number(last['waiting'])} waiting"
            ),
            markup.card(
                "kv", "KV used", _percent(last["kv_used"]), f"at most {_percent(load['kv_used_most'].max())}"
            ),
            markup.card(
                "accepted",
                "Accepted length",
                _number(speculation.get("accepted_length")),
                f"tokens a round, drafts from {drafter}" if drafter else "nothing is drafted",
            ),
            markup.card(
                "waste", "Verification waste", _percent(speculation.get("waste")), "of verified drafts"
            ),
            markup.card(
                "decode",
                "Decode",
                Html(f"{figures.rate(last['decode_tokens_per_s'])} <small>tokens/s</small>"),
            ),
            markup.card(
                "mtok",
                "USD / million tokens",
                figures.NONE if usd_per_mtok is None else figures.usd(usd_per_mtok),
                "output, idle time included",
            ),
        ],
        wide=True,
    )


def concurrency(bands: pd.DataFrame) -> Html:
    columns = [
        Column("Sequences running"),
        Column("Accepted length", True, "tokens a round; of recent rounds"),
        Column("Waste", True, "share of verified drafts not accepted"),
        *(Column(f"TTFT {name}", True) for name in ("p50", "p95", "p99")),
        Column("TTFT n", True),
        *(Column(f"Time per token {name}", True) for name in ("p50", "p95", "p99")),
        Column("Completion p95", True),
    ]
    return markup.table(columns, [_band(row) for row in bands.to_dict("records")], "concurrency")


def _band(row: Mapping[str, Any]) -> list[Content]:
    return [
        row["band"],
        _number(row["accepted_length"]),
        _percent(row["waste"]),
        *_quantiles(row, "ttft"),
        figures.count(row["ttft_n"]),
        *_quantiles(row, "tpot"),
        quantile(row["total_p95_s"], row["total_n"], "p95"),
    ]


def _quantiles(row: Mapping[str, Any], metric: str) -> list[Content]:
    return [quantile(row[f"{metric}_{name}_s"], row[f"{metric}_n"], name) for name in QUANTILES]


def speculation(bands: pd.DataFrame) -> Html:
    columns = [
        Column("By"),
        Column("Band"),
        Column("Accepted length", True, "tokens committed a round, the target's own included"),
        Column("Drafted a round", True),
        Column("Verified a round", True),
        Column("Waste", True, "share of verified drafts not accepted"),
    ]
    rows: list[list[Content]] = [
        [
            row["dimension"],
            row["band"],
            _number(row["accepted_length"]),
            _number(row["proposal_length"]),
            _number(row["verified_length"]),
            _percent(row["waste"]),
        ]
        for row in bands.to_dict("records")
    ]
    return markup.table(columns, rows, "speculation")


def _number(value: float | None) -> str:
    return figures.NONE if value is None or figures.is_absent(value) else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return figures.NONE if value is None or figures.is_absent(value) else figures.share(value, 1)
