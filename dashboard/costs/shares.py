"""What is told of money, computed from the frames of `queries`. Pure: frames in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from dashboard.summary import known_sum

LOST = ("failed", "abandoned")
SELF_HOSTED, UPSTREAM = "self-hosted", "upstream"


@dataclass(frozen=True, slots=True)
class Side:
    """Targets that we keep running, or those that are paid by the token."""

    attempts: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    unpriced: int
    idle_usd: float

    @property
    def whole_usd(self) -> float | None:
        """With what stood idle."""
        return None if self.cost_usd is None else self.cost_usd + self.idle_usd

    @property
    def usd_per_mtok(self) -> float | None:
        """Dollars for a million output tokens, idle time included; None without tokens or costs."""
        whole = self.whole_usd
        return None if whole is None or not self.output_tokens else 1e6 * whole / self.output_tokens


def sides(spending: pd.DataFrame, targets: pd.DataFrame, idle_usd: Mapping[str, float]) -> dict[str, Side]:
    """Self-hosted are targets of a kind that has machines of its own. A side without targets is left out."""
    is_ours = targets["kind"].isin(["engine", "vllm", "sglang"])
    ours = {*targets.loc[is_ours, "name"]}
    found = {}
    for name, rows in (
        (SELF_HOSTED, spending[spending["target"].isin(ours)]),
        (UPSTREAM, spending[~spending["target"].isin(ours)]),
    ):
        idle = sum(idle_usd.values()) if name == SELF_HOSTED else 0.0
        if not rows.empty or idle:
            sums = {
                key: int(rows[key].sum()) for key in ("attempts", "input_tokens", "output_tokens", "unpriced")
            }
            found[name] = Side(cost_usd=known_sum(rows["cost_usd"]), idle_usd=idle, **sums)
    return found


def lost(by_end: pd.DataFrame) -> pd.DataFrame:
    """The rows of tasks that failed or were abandoned."""
    return by_end[by_end["task_status"].isin(LOST)]
