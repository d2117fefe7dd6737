"""`sparkgate drafter data | train | eval | calibrate | compare`: becomes the engine's `python -m engine.training`.

In: its options, which are handed on as they are (`--help` too). What sparkgate.yaml says of the engine stands in
for those that are not given. The gateway knows none of them, as it knows nothing of drafters.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import typer

from gateway.cli import options
from gateway.cli.output import Refused

_COMMANDS = {
    "data": "Sample answers from the model, to train its drafter on.",
    "train": "Train a drafter on answers of its target.",
    "eval": "Measure a drafter: accepted length, what becomes of each slot, tokens/s.",
    "calibrate": "Make a drafter's confidence mean what it says.",
    "compare": "Train drafters of several kinds alike and measure them beside each other.",
}
_ENGINE = "import sys; from engine.training.__main__ import main; sys.exit(main(prog='sparkgate drafter'))"
_HAND_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    drafter = typer.Typer(help="Train and measure drafters.", no_args_is_help=True)
    for name, does in _COMMANDS.items():
        handed_on = drafter.command(name, help=does, add_help_option=False, context_settings=_HAND_ON)
        handed_on(_run)
    app.add_typer(drafter, name="drafter")


def _run(context: typer.Context, config: options.Config = None) -> None:
    if importlib.util.find_spec("torch") is None:
        raise Refused('drafters need torch: pip install "sparkgate[engine]"')
    name, given = str(context.info_name), context.args
    argv = [sys.executable, "-P", "-c", _ENGINE, name, *_defaults(name, given, config), *given]
    os.execv(argv[0], argv)


def _defaults(name: str, given: list[str], config: Path | None) -> list[str]:
    """Options that go first, so that given ones count instead. A recipe may name a model of its own."""
    data_dir = ["--data-dir", str(options.DATA_DIR)]
    if name in ("train", "compare") and any(one.partition("=")[0] == "--recipe" for one in given):
        return data_dir
    return [*data_dir, "--model", options.loaded_deployment(config).deployment.engine.model]
