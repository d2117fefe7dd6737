"""The process that exports: `python -m gateway.telemetry.exporting`, started and fed by the drain (see `feed`).

In: batches of records on standard input, one JSON array a line. It ends when that does; signals are the drain's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import BinaryIO

import orjson

from gateway.telemetry.export import Exporter
from gateway.telemetry.figures_shown import shown, span_figures
from gateway.telemetry.settings import handed_over


def export_all(batches: BinaryIO, exporter: Exporter) -> None:
    for line in batches:
        if line.endswith(b"\n"):  # else the drain was killed while it wrote
            exporter.take(orjson.loads(line))


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    telemetry = handed_over(os.environ)
    if telemetry is None:
        return 0
    exporter = Exporter(telemetry)
    with shown(lambda: span_figures(exporter), os.environ):
        export_all(sys.stdin.buffer, exporter)
        exporter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
