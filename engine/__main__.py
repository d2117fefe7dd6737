"""Command line: `python -m engine serve` and `python -m engine fetch`.

User mistakes end in one line and exit code 2. Importing torch waits until the options are read.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StartError
from engine.fetch import BUNDLED_MODEL, Progress, fetch_drafter, fetch_model

# How long OpenMP's workers spin before they sleep. Measured on two cores, one stream, ms a step: on a free
# machine 41 / 32 / 26 / 26 / 26 with 1,000 / 5,000 / 10,000 / 20,000 / 300,000 (OpenMP's own choice); beside a
# busy process 70 with 5,000, 131 with 20,000, over 600 with 300,000.
_SPIN_COUNT = "10000"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        with progress_bar() as progress:
            if options.command == "fetch":
                for fetched in (
                    fetch_model(options.model, options.data_dir, progress),
                    fetch_drafter(options.drafter, options.data_dir, progress),
                ):
                    if fetched is not None:
                        print(fetched.folder)
                return 0
            _serve(options, progress)
    except StartError as error:
        print(f"engine: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(options: argparse.Namespace, progress: Progress) -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch loads OpenMP
    from engine.serve import ServeOptions, serve

    given = {name: value for name, value in vars(options).items() if name != "command"}
    serve(ServeOptions(**given), progress)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr that appears with the first report and disappears with the last."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    bar = Bar(console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=1.0)

    def report(what: str, share: float) -> None:
        bar.start()
        bar.update(task, description=what, completed=share)
        if share >= 1.0:
            bar.stop()

    try:
        yield report
    finally:
        bar.stop()


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    arguments = argparse.ArgumentParser(
        prog="python -m engine", description="The sparkgate inference engine."
    )
    commands = arguments.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch", help="bring a model and its drafter to disk, then exit")
    run = commands.add_parser("serve", help="serve a model over HTTP")
    for command in (fetch, run):
        command.add_argument(
            "--model", default=BUNDLED_MODEL, help="bundled name, local folder or Hugging Face id"
        )
        command.add_argument(
            "--data-dir", type=Path, default=Path(".sparkgate"), help="where models are kept"
        )
        command.add_argument(
            "--drafter",
            default="auto",
            help="drafts tokens ahead: auto, bundled, lookup, none, folder or Hugging Face id (default: auto)",
        )
    run.add_argument("--host", default="127.0.0.1")
    run.add_argument("--port", type=_port, default=8090)
    run.add_argument("--dtype", choices=("auto", "bfloat16", "float32", "w8a16"), default="auto")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    run.add_argument(
        "--draft-confidence",
        type=_share,
        default=0.0,
        help="0 to 1: with static drafting, a draft ends before the first token less sure than this",
    )
    run.add_argument(
        "--draft-schedule",
        choices=("prefix", "delayed"),
        default="prefix",
        help="how many drafts are verified: as the step's own confidences say, or as those two steps before said",
    )
    run.add_argument(
        "--draft-topk",
        type=_positive,
        help="of a learned drafter: a draft is chosen among so many of the likeliest tokens (default: all)",
    )
    run.add_argument("--max-batch", type=_positive, default=16, help="sequences computed at once")
    run.add_argument("--kv-tokens", type=_positive, help="tokens the cache holds, all sequences together")
    run.add_argument("--prefill-chunk", type=_positive, help="prompt tokens computed in one step")
    run.add_argument("--threads", type=_positive, help="compute threads (default: one a core)")
    run.add_argument("--max-waiting", type=_natural, default=256, help="requests that may queue")
    run.add_argument(
        "--max-waiting-per-caller",
        type=_natural,
        help="requests that one named caller may have in the queue (default: a quarter of --max-waiting)",
    )
    run.add_argument(
        "--no-prefix-cache",
        dest="prefix_cache",
        action="store_false",
        help="compute every prompt from its first token, even where a beginning is known",
    )
    return arguments


def _positive(text: str) -> int:
    return _integer(text, 1, None)


def _natural(text: str) -> int:
    return _integer(text, 0, None)


def _port(text: str) -> int:
    return _integer(text, 0, 65535)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _integer(text: str, least: int, most: int | None) -> int:
    allowed = f"a whole number from {least}" + (f" to {most}" if most is not None else " up")
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
