"""Drafters of several kinds beside each other, trained alike and verified by the same path: DSpark's offline table.

In: `Plan`, and a target with prompts. Out, in the plan's folder: `recipe.yaml`, what all runs share; a folder for
each kind, learning rate and number of blocks; comparison.json, comparison.csv, and a picture for each temperature.
A run is a process of `engine.training.train`, as a user would start it. The same call again goes on where it was
stopped: neither a run nor a measurement that is done is repeated. Knows neither nets nor losses.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from collections.abc import Sequence as Ordered
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from engine.drafters.chain import ChainDrafter
from engine.drafters.lookup import PromptLookup
from engine.drafters.named import Named, load_named
from engine.errors import StartError
from engine.fetch import Progress
from engine.model import Model
from engine.tokenizer import ModelTokenizer
from engine.training.chart import svg
from engine.training.evaluate import EvalSettings, evaluate
from engine.training.prompts import Prompt
from engine.training.recipe import TrainSettings
from engine.training.report import comparison_rows, conditional_panels, figures

log = logging.getLogger("engine")

LOOKUP = "lookup"
_NOT_SHARED = ("kind", "learning_rate", "blocks", "out", "features", "resume", "for_s", "start_from")
_MODULE = ("-m", "engine.training.train")
_SEVERAL = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained. Of `settings`, which all runs share, neither `kind` nor `learning_rate` counts."""

    settings: TrainSettings
    kinds: tuple[str, ...]  # of `recipe.KINDS`, or lookup, which learns nothing
    learning_rates: tuple[float, ...]  # tried for each kind, if there are several
    trial_blocks: int
    processes: int = 1  # that train together; each takes the recipe's sequences a step


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished run of one kind."""

    folder: Path
    learning_rate: float
    blocks: int
    held_out: float  # accepted length
    trials: dict[float, float]  # the same by learning rate, after `trial_blocks`; empty where one was given


def train_all(plan: Plan) -> dict[str, Trained]:
    """A run of each kind that learns, at the learning rate whose trial did best on what was held out.

    StartError where a run fails, or the folder is of a comparison with another recipe.
    """
    settings = plan.settings
    if settings.blocks < 1:
        raise StartError("--blocks is needed, or blocks in the recipe: of each run")
    if settings.held_out_per_domain < 1:
        raise StartError("held_out_per_domain is 0: learning rates are judged by what is held out")
    _write_recipe(plan)
    return {kind: _train_one(plan, kind) for kind in plan.kinds if kind != LOOKUP}


def _train_one(plan: Plan, kind: str) -> Trained:
    rates, trials = plan.learning_rates, {}
    if len(rates) > 1:
        trials = {rate: _run(plan, kind, rate, plan.trial_blocks).held_out for rate in rates}
    best = max(rates, key=lambda rate: trials.get(rate, 0.0))
    return replace(_run(plan, kind, best, plan.settings.blocks), trials=trials)


def _run(plan: Plan, kind: str, rate: float, blocks: int) -> Trained:
    """Begin, or go on with, or only look at a run."""
    folder = plan.settings.out / f"{kind}_{rate:g}_{blocks}"
    done, held_out = _last_measured(folder)
    if done < blocks:
        log.info("%s: training", folder)
        _finish(_command(plan, kind, rate, blocks, folder))
        done, held_out = _last_measured(folder)
    if done < blocks:
        raise StartError(f"{folder}: stopped after {done} of {blocks} blocks; the same command goes on")
    log.info("%s: accepted length on held-out answers %.3f", folder, held_out)
    return Trained(folder, rate, done, held_out, {})


def _last_measured(folder: Path) -> tuple[int, float]:
    """Blocks learnt, and the accepted length on held-out answers after them. A run writes it last of all."""
    path = folder / "held_out.csv"
    if not path.exists():
        return 0, 0.0
    with path.open(encoding="utf-8", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return int(last["blocks"]), float(last["mean"])


def _command(plan: Plan, kind: str, rate: float, blocks: int, folder: Path) -> list[str]:
    settings = plan.settings
    features = settings.features or settings.out / "features"
    several = [*_SEVERAL, str(plan.processes)] if plan.processes > 1 else []
    argv = [sys.executable, *several, *_MODULE, "--recipe", str(_recipe_path(plan)), "--kind", kind]
    argv += ["--learning-rate", repr(rate), "--blocks", str(blocks)]
    argv += ["--features", str(features), "--out", str(folder)]
    return argv + (["--resume"] if (folder / "state.pt").exists() else [])


def _finish(argv: list[str]) -> None:
    """Run it in a group of its own, so that Ctrl-C reaches it once: through here, as a signal to save and end."""
    kept = {"PYTHONSAFEPATH": "1"} if sys.flags.safe_path else {}
    process = subprocess.Popen(argv, env=os.environ | kept, process_group=0)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if code:
        raise StartError(f"training ended with exit code {code}, see above: {' '.join(argv[1:])}")


def _recipe_path(plan: Plan) -> Path:
    return plan.settings.out / "recipe.yaml"


def _write_recipe(plan: Plan) -> None:
    """What all runs share, in the layout of `--recipe`."""
    settings, path = plan.settings, _recipe_path(plan)
    if plan.processes > 1:
        settings = replace(settings, threads=1)
    shared = {one.name: _plain(getattr(settings, one.name)) for one in fields(settings)}
    shared = {name: value for name, value in shared.items() if name not in _NOT_SHARED and value is not None}
    head = f"# Of every run in this folder: {plan.processes} processes\n"
    text = head + yaml.safe_dump(shared, sort_keys=False, default_flow_style=None)
    if path.exists():
        differing = set(text.splitlines()) ^ set(path.read_text(encoding="utf-8").splitlines())
        if differing:
            told = "; ".join(sorted(differing))
            raise StartError(f"{path} is of another comparison, name another --out; they differ in {told}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def measure_all(
    plan: Plan,
    trained: dict[str, Trained],
    model: Model,
    tokenizer: ModelTokenizer,
    prompts: Ordered[Prompt],
    asked: Ordered[EvalSettings],
    progress: Progress = lambda what, share: None,
) -> dict[str, Any]:
    """What was asked and found, as JSON values; written to the plan's folder too.

    `drafters` has an entry for each kind, and for a chain that drafts fewer tokens than the others another one at
    their number. Its `temperatures` are `report.figures`.
    """
    drafters: dict[str, Any] = {}
    for kind in plan.kinds:
        run = trained.get(kind)
        folder = run.folder if run is not None else plan.settings.out / kind
        for drafter in _contenders(plan, kind, run, model):
            found = {
                f"{one.temperature:g}": _measured(folder, one, model, tokenizer, prompts, drafter, progress)
                for one in asked
            }
            drafters[drafter.name] = {
                "kind": kind,
                "slots": drafter.drafter.num_slots,
                **(_made(run) if run is not None else {}),
                "temperatures": found,
            }
    result = {
        "model": str(plan.settings.model),
        "number_format": model.number_format,
        "processes": plan.processes,
        "trial_blocks": plan.trial_blocks,
        "prompts": _told(prompts),
        "evaluations": [asdict(one) for one in asked],
        "drafters": drafters,
    }
    _write(plan.settings.out, result)
    return result


def _made(run: Trained) -> dict[str, Any]:
    return {
        "learning_rate": run.learning_rate,
        "blocks": run.blocks,
        "megabytes": (run.folder / "drafter" / "model.safetensors").stat().st_size / 1e6,
        "held_out": run.held_out,
        "trials": {f"{rate:g}": accepted for rate, accepted in run.trials.items()},
    }


def _contenders(plan: Plan, kind: str, run: Trained | None, model: Model) -> Iterator[Named]:
    slots = plan.settings.block_size
    if run is None:
        yield Named(kind, PromptLookup(slots))
        return
    named = load_named(str(run.folder / "drafter"), model, plan.settings.out)
    assert named is not None
    yield Named(kind, named.drafter)
    if isinstance(named.drafter, ChainDrafter) and named.drafter.num_slots < slots:
        yield Named(f"{kind} x{slots}", replace(named.drafter, num_slots=slots))


def _measured(
    folder: Path,
    settings: EvalSettings,
    model: Model,
    tokenizer: ModelTokenizer,
    prompts: Ordered[Prompt],
    drafter: Named,
    progress: Progress,
) -> dict[str, Any]:
    """`report.figures`, from the folder's file if that answers the same question."""
    path = folder / f"{drafter.name.replace(' ', '_')}_t{settings.temperature:g}.json"
    question = {**asdict(settings), "number_format": model.number_format, "prompts": _told(prompts)}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["question"] == question:
            return dict(stored["figures"])

    def report(what: str, share: float) -> None:
        progress(f"{drafter.name}, {what}", share)

    rounds = evaluate(settings, model, tokenizer, prompts, drafter, with_plain=False, progress=report)
    found = figures(rounds, prompts)
    folder.mkdir(exist_ok=True)
    _write_json(path, {"question": question, "figures": found})
    return found


def _told(prompts: Ordered[Prompt]) -> dict[str, Any]:
    text = "\0".join(f"{one.domain}\0{one.text}" for one in prompts)
    return {"number": len(prompts), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _write(folder: Path, result: dict[str, Any]) -> None:
    _write_json(folder / "comparison.json", result)
    drafters = result["drafters"]
    rows = comparison_rows(drafters)
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    for temperature in dict.fromkeys(row["temperature"] for row in rows):
        found = {name: one["temperatures"][temperature] for name, one in drafters.items()}
        title = f"share of drafts that stood where those before did, by slot; temperature {temperature}"
        picture = svg(title, conditional_panels(found))
        (folder / f"slots_t{temperature}.svg").write_text(picture, encoding="utf-8")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    scratch = path.with_name(f".{path.name}.part")
    scratch.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)
