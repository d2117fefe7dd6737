"""The spans of time that the page can show, and how finely each is cut.

In: a clock reading. Out: where a span starts. Knows nothing of SQL or Streamlit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Span:
    """`bucket_s` is one point of a chart, `reread_s` how long the sums of a span may be reused.

    A long span changes little in a few seconds, so its sums are read less often; the list of newest exchanges is
    always fresh.
    """

    label: str
    length_s: int
    bucket_s: int
    reread_s: float

    def start(self, now: datetime) -> datetime:
        """A bucket's edge, which is an edge of all sums that are that old: of minutes, quarters of an hour, hours."""
        earliest = now.timestamp() - self.length_s
        return datetime.fromtimestamp(earliest - earliest % self.bucket_s, UTC)

    def tick(self, now: datetime) -> int:
        """Another number once the sums of the span are to be read again."""
        return int(now.timestamp() / self.reread_s)

    @property
    def bucket_label(self) -> str:
        if self.bucket_s < 3600:
            return "minute" if self.bucket_s == 60 else f"{self.bucket_s // 60} min"
        return "day" if self.bucket_s == 86_400 else f"{self.bucket_s // 3600} h"


SPANS: dict[str, Span] = {
    span.label: span
    for span in (
        Span("15 min", 900, 60, 1.0),
        Span("1 h", 3600, 120, 2.0),
        Span("24 h", 86_400, 1800, 20.0),
        Span("7 d", 604_800, 14_400, 120.0),
        Span("30 d", 2_592_000, 86_400, 300.0),
    )
}
