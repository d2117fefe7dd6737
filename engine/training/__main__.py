"""Command line: `python -m engine.training data|train|eval|calibrate|compare`, which `sparkgate drafter` calls.

User mistakes end in one line and exit code 2. Importing torch waits until the options are read.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.__main__ import progress_bar
from engine.errors import StartError
from engine.fetch import BUNDLED_MODEL, Progress
from engine.training.prompts import EVALUATION_PROMPTS
from engine.training.recipe import KINDS, add_arguments

if TYPE_CHECKING:
    from engine.drafters.named import Named
    from engine.model import Model
    from engine.tokenizer import ModelTokenizer
    from engine.training.evaluate import EvalSettings

DATA_DIR = Path(".sparkgate")
_COMPARABLE = (*KINDS, "lookup")
_SPIN_COUNT = "10000"  # of OpenMP's workers, as when serving


def main(arguments: Sequence[str] | None = None, prog: str = "python -m engine.training") -> int:
    """Run a command; returns the exit code. `prog` is what its help calls it."""
    options = parser(prog).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)  # read when torch loads OpenMP
    try:
        with progress_bar() as progress:
            options.run(options, progress)
    except StartError as error:
        print(f"drafter: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _data(options: argparse.Namespace, progress: Progress) -> None:
    from engine.drafters.named import load_named
    from engine.training.code_prompts import code_prompts
    from engine.training.prompts import read_prompts
    from engine.training.sampling import SampleSettings, sample

    settings = SampleSettings(
        out=options.out,
        num_tokens=options.tokens,
        temperatures=options.temperatures,
        max_tokens=options.max_tokens,
        seed=options.seed,
        streams=options.streams,
    )
    prompts = None
    if options.prompts is not None:
        prompts = read_prompts(options.prompts)
    elif options.code_prompts is not None:
        prompts = code_prompts(options.code_prompts)
    model, tokenizer = _target(options, progress)
    named = load_named(options.drafter, model, options.data_dir, progress)
    drafter = named.drafter if named else None
    answers = sample(settings, model, tokenizer, prompts, drafter=drafter, progress=progress)
    print(f"{options.out}: {len(answers)} answers, {answers.num_answer_tokens} tokens")


def _train(options: argparse.Namespace, progress: Progress) -> None:
    from engine.fetch import fetch_model
    from engine.training.recipe import settings_of
    from engine.training.train import train

    settings = settings_of(options)
    target = fetch_model(str(settings.model), options.data_dir, progress)
    train(replace(settings, model=target.folder))


def _eval(options: argparse.Namespace, progress: Progress) -> None:
    from engine.training.chart import svg
    from engine.training.evaluate import evaluate
    from engine.training.prompts import read_prompts
    from engine.training.report import figures, survival_panel, table

    prompts = read_prompts(options.prompts)
    model, tokenizer = _target(options, progress)
    drafter = _drafter(options, model, progress)
    settings = _eval_settings(options, options.temperature)
    measured = evaluate(
        settings, model, tokenizer, prompts, drafter, with_plain=options.plain, progress=progress
    )
    found = figures(measured, prompts)
    print(table(found))
    if options.json is not None:
        ran = {"model": str(options.model), "number_format": model.number_format, "drafter": drafter.name}
        result = ran | {"prompts": str(options.prompts), **asdict(settings), **found}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.plot is not None:
        title = f"{drafter.name}, temperature {settings.temperature:g}"
        options.plot.write_text(svg(title, [survival_panel(found)]), encoding="utf-8")


def _calibrate(options: argparse.Namespace, progress: Progress) -> None:
    from engine.drafters.dspark import BlockDrafter
    from engine.training.calibrate import calibration_of, halves, joined, scaled
    from engine.training.chart import svg
    from engine.training.evaluate import evaluate
    from engine.training.prompts import read_prompts
    from engine.training.report import reliability_panels

    prompts = read_prompts(options.prompts)
    model, tokenizer = _target(options, progress)
    named = _drafter(options, model, progress)
    drafter, folder = named.drafter, Path(options.drafter).expanduser()
    if not isinstance(drafter, BlockDrafter) or drafter.confidence is None or not folder.is_dir():
        raise StartError(
            f"--drafter {options.drafter}: only a folder with a confidence head can be calibrated"
        )
    drafter.confidence_temperatures = None  # of an earlier calibration
    parts = [
        evaluate(
            _eval_settings(options, temperature),
            *(model, tokenizer, prompts, named),
            with_plain=False,
            progress=progress,
        ).rounds
        for temperature in dict.fromkeys(options.temperatures)
    ]
    learnt, held_out = halves(joined(parts))
    found = calibration_of(learnt, held_out, options.prompts.name)
    path = found.write(folder)
    print(f"temperatures {', '.join(f'{one:.2f}' for one in found.temperatures)}, in {path}")
    print(f"calibration error on held-out prompts {found.ece_before:.4f} before, {found.ece_after:.4f} after")
    if options.plot is not None:
        panels = reliability_panels(held_out, scaled(held_out, found.temperatures))
        options.plot.write_text(svg(f"{named.name}, confidence", panels), encoding="utf-8")


def _compare(options: argparse.Namespace, progress: Progress) -> None:
    from engine.fetch import fetch_model
    from engine.training.compare import Plan, measure_all, train_all
    from engine.training.evaluate import EvalSettings, spread
    from engine.training.prompts import read_prompts
    from engine.training.recipe import settings_of
    from engine.training.report import comparison_rows, comparison_table

    prompts = read_prompts(options.prompts)
    if options.prompts_per_domain is not None:
        prompts = spread(prompts, options.prompts_per_domain)
    settings = settings_of(options)
    target = fetch_model(str(settings.model), options.data_dir, progress).folder
    settings = replace(settings, model=target.resolve())
    rates = options.learning_rates or (settings.learning_rate,)
    trial_blocks = options.trial_blocks or max(1, settings.blocks // 10)
    plan = Plan(settings, options.kinds, rates, trial_blocks, options.processes)
    trained = train_all(plan)
    served = {"model": str(target), "dtype": settings.dtype, "device": settings.device, "threads": None}
    model, tokenizer = _target(argparse.Namespace(**vars(options) | served), progress)
    asked = [EvalSettings(one, options.max_tokens, options.streams) for one in options.temperatures]
    found = measure_all(plan, trained, model, tokenizer, prompts, asked, progress)
    rows = comparison_rows(found["drafters"])
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        print(f"accepted length at temperature {temperature}")
        print(comparison_table(row for row in rows if row["temperature"] == temperature))


def _drafter(options: argparse.Namespace, model: Model, progress: Progress) -> Named:
    from engine.drafters.named import load_named

    named = load_named(options.drafter, model, options.data_dir, progress)
    if named is None:
        raise StartError("--drafter none: there is nothing to measure")
    return named


def _eval_settings(options: argparse.Namespace, temperature: float) -> EvalSettings:
    from engine.training.evaluate import EvalSettings

    return EvalSettings(temperature, options.max_tokens, options.streams, options.seed)


def _target(options: argparse.Namespace, progress: Progress) -> tuple[Model, ModelTokenizer]:
    import torch

    from engine.checkpoint import read_config
    from engine.fetch import fetch_model
    from engine.load import choose_format, load_model
    from engine.serve import choose_device
    from engine.tokenizer import ModelTokenizer

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    folder = fetch_model(options.model, options.data_dir, progress).folder
    config = read_config(folder)
    model = load_model(config, folder, choose_format(options.dtype, device, config), device)
    return model, ModelTokenizer(folder)


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line's options."""
    arguments = argparse.ArgumentParser(prog=prog, description="Train and measure drafters.")
    commands = arguments.add_subparsers(dest="command", required=True)
    _add_data(commands.add_parser("data", help="sample answers from a model, to train its drafter on"))
    train = commands.add_parser("train", help="train a drafter on answers of its target")
    train.set_defaults(run=_train)
    train.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where models are kept")
    add_arguments(train)
    evaluation = commands.add_parser("eval", help="measure a drafter: accepted length, slots, tokens/s")
    evaluation.set_defaults(run=_eval)
    _add_measured(evaluation)
    evaluation.add_argument("--temperature", type=_temperature, default=0.0, help="default: 0")
    evaluation.add_argument(
        "--no-plain",
        dest="plain",
        action="store_false",
        help="do not answer once more without drafts, in turn, to tell how much faster: half the time",
    )
    evaluation.add_argument("--json", type=_file, metavar="FILE", help="write all figures there")
    calibration = commands.add_parser(
        "calibrate", help="make a drafter's confidence mean what it says; written beside its weights"
    )
    calibration.set_defaults(run=_calibrate)
    _add_measured(calibration)
    calibration.add_argument(
        "--temperatures",
        type=_temperatures,
        default=(0.0, 1.0),
        metavar="T,…",
        help="of the answers that confidence shall fit, all together (default: 0,1)",
    )
    _add_compare(
        commands.add_parser("compare", help="train drafters of several kinds alike and measure them")
    )
    return arguments


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.set_defaults(run=_compare)
    compare.add_argument(
        "--recipe", type=Path, metavar="FILE.yaml", help="of all runs: what `train` takes, _ for -"
    )
    compare.add_argument("--model", type=Path, help="the target: bundled name, folder or Hugging Face id")
    compare.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where models are kept")
    compare.add_argument("--answers", type=Path, nargs="+", metavar="FILE.npz", help="the target's answers")
    compare.add_argument("--features", type=Path, metavar="FOLDER", help="what the target computes of them")
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="the runs and the report")
    compare.add_argument(
        "--kinds",
        type=_kinds,
        default=_COMPARABLE,
        metavar="KIND,…",
        help=f"default: {','.join(_COMPARABLE)}",
    )
    compare.add_argument(
        "--learning-rates",
        type=_rates,
        metavar="R,…",
        help="the one that does best in a trial is each kind's",
    )
    compare.add_argument("--blocks", type=_positive, help="of a run")
    compare.add_argument("--trial-blocks", type=_positive, help="of a trial (default: a tenth of a run's)")
    compare.add_argument("--processes", type=_positive, default=1, help="that train together, a thread each")
    compare.add_argument(
        "--temperatures", type=_temperatures, default=(0.0, 1.0), metavar="T,…", help="default: 0,1"
    )
    _add_prompts(compare)
    compare.add_argument("--prompts-per-domain", type=_positive, metavar="N", help="no more, evenly spread")


def _add_data(data: argparse.ArgumentParser) -> None:
    data.set_defaults(run=_data)
    _add_target(data)
    data.add_argument("--out", type=_file, required=True, metavar="FILE.npz", help="written, or continued")
    source = data.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="lines with prompt and domain")
    source.add_argument("--code-prompts", type=_positive, metavar="N", help="N of our own prompts on code")
    source.add_argument("--from-empty", action="store_true", help="the model also writes what it is asked")
    data.add_argument("--tokens", type=_positive, default=500_000, help="of answers, in the file at the end")
    data.add_argument(
        "--temperatures",
        type=_temperatures,
        default=(0.0, 0.7, 1.0, 1.0),
        metavar="T,…",
        help="of the answers in turn; one named twice is had twice as often (default: 0,0.7,1,1)",
    )
    data.add_argument("--max-tokens", type=_positive, default=256, help="of an answer")
    data.add_argument("--seed", type=int, default=0)
    data.add_argument("--streams", type=_positive, default=64, help="answers at once")
    data.add_argument(
        "--drafter",
        choices=("none", "lookup"),
        default="none",
        help="lookup may be faster; answers are the same",
    )


def _add_measured(command: argparse.ArgumentParser) -> None:
    _add_target(command)
    command.add_argument("--drafter", required=True, help="a folder, a Hugging Face id, bundled, or lookup")
    _add_prompts(command)
    command.add_argument("--seed", type=int, default=0, help="of the first prompt; the next has the next")
    command.add_argument("--plot", type=_svg_file, metavar="FILE.svg", help="draw it")


def _add_prompts(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--prompts",
        type=Path,
        default=EVALUATION_PROMPTS,
        metavar="FILE.jsonl",
        help="lines with prompt and domain (default: 45 of our own)",
    )
    command.add_argument("--max-tokens", type=_positive, default=256, help="of an answer")
    command.add_argument("--streams", type=_positive, default=8, help="answers at once")


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", default=BUNDLED_MODEL, help="bundled name, local folder or Hugging Face id"
    )
    command.add_argument("--data-dir", type=Path, default=DATA_DIR, help="where models are kept")
    command.add_argument("--dtype", choices=("auto", "bfloat16", "float32", "w8a16"), default="auto")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    command.add_argument("--threads", type=_positive, help="compute threads (default: one a core)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _file(text: str) -> Path:
    """To be written when all is done, which should not fail then."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: its folder is missing, or it is one")
    return path


def _svg_file(text: str) -> Path:
    if not text.endswith(".svg"):
        raise argparse.ArgumentTypeError(f"{text!r}: the picture is an SVG; give it a name that ends in .svg")
    return _file(text)


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(text.split(",")))
    unknown = [one for one in kinds if one not in _COMPARABLE]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(_COMPARABLE)}")
    return kinds


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(dict.fromkeys(map(float, text.split(","))))
    except ValueError:
        rates = ()
    if not rates or min(rates) <= 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of learning rates, like 6e-4,1.5e-3")
    return rates


def _temperatures(text: str) -> tuple[float, ...]:
    return tuple(map(_temperature, text.split(",")))


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 10.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 10")
    return value


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: what there is is saved
    sys.exit(main())
