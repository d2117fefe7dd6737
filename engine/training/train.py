"""Trains a drafter: `train(settings)`, step by step from answers to a folder that the engine can serve.

In: `TrainSettings`. Out, in the run's folder: `drafter/` (served with `--drafter`), `state.pt` (all that is needed to
go on), `log.csv` and `held_out.csv`. A run that was stopped and goes on ends in the same bits as one that was not.
Under torchrun every process learns from its own conversations and gradients are averaged.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.checkpoint import read_config, read_weights
from engine.errors import StartError
from engine.load import choose_format, load_model
from engine.model import LAST_HIDDEN, Model, check_capture
from engine.serve import choose_device
from engine.training.answers import Answers
from engine.training.batches import Batches, num_anchors, split
from engine.training.build import Net, begin_with_target, build_net, frequent_tokens, load_net, write_drafter
from engine.training.features import FeatureStore
from engine.training.held_out import HeldOut, measure
from engine.training.losses import LossWeights, TargetHead
from engine.training.objective import Objective, Scores
from engine.training.recipe import TrainSettings, add_arguments, settings_of

log = logging.getLogger("engine")

Progress = Callable[[str, float], None]
_EPOCHS = 10
_CHAIN_DECAY = 0.8
_EXTENSIBLE = ("blocks", "for_s", "resume", "checkpoint_every_s", "log_every_steps", "features", "threads")


def train(settings: TrainSettings, progress: Progress = lambda what, share: None) -> None:
    """Train until all blocks are learnt, `for_s` is over or a signal comes; then write state and drafter.

    StartError where the settings fit neither the model nor the run that is to go on.
    """
    begun_s = time.monotonic()
    with _processes(settings) as place, _stop_signals() as stopped:
        run = Run(settings, place)
        is_writer = place.rank == 0
        saved_s = time.monotonic()
        while run.blocks < run.total_blocks:
            run.take_step()
            progress(run.line(), run.blocks / run.total_blocks)
            now_s = time.monotonic()
            is_over = settings.for_s is not None and now_s - begun_s >= settings.for_s
            due = now_s - saved_s >= settings.checkpoint_every_s
            is_over, due = place.agree(is_over or stopped()), place.agree(due)
            if is_over:
                break
            if due:
                if is_writer:
                    run.save()
                saved_s = time.monotonic()
        if is_writer:
            run.save()


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those that train together."""

    rank: int
    num_processes: int
    device: torch.device

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.num_processes > 1:
            dist.all_reduce(values)
        return values

    def agree(self, here: bool) -> bool:
        """Whether it holds in any process."""
        if self.num_processes == 1:
            return here
        return bool(self.total(torch.tensor(float(here), device=self.device)) > 0)


class Run:
    """A run's net, optimiser and place in the data. `blocks` were learnt from, in `steps`."""

    def __init__(self, settings: TrainSettings, place: Place) -> None:
        self.settings, self.place = settings, place
        state = _state_to_resume(settings)
        self.target = _load_target(settings, place.device)
        self.answers = Answers.load(settings.answers)
        is_alone = settings.kind == "mtp" and settings.features is None  # a folder of its own needs no layers
        layer_ids = () if is_alone else settings.target_layer_ids
        _check(settings, self.target, self.answers, layer_ids)
        net, self.vocabulary = self._begin(state)
        features = settings.features or settings.out / "features"
        store = FeatureStore(features, self.answers, self.target, layer_ids)
        learnt, self.held_out = split(self.answers, settings.held_out_per_domain, settings.seed)
        self.batches = Batches(
            self.answers,
            store,
            learnt,
            net.num_slots,
            settings.sequences_per_step,
            settings.anchors_per_sequence,
            settings.seed,
            place.rank,
            place.num_processes,
        )
        columns = None if self.vocabulary is None else self.vocabulary.to(place.device)
        head = TargetHead(self.target.head_weight, columns, self.target.dtype)
        self.objective = Objective(net, head, _weights(settings))
        self.module: nn.Module = self.objective
        if place.num_processes > 1:
            self.module = DistributedDataParallel(self.objective)
        self.optimizer = torch.optim.AdamW(
            net.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        self.total_blocks = settings.blocks or _EPOCHS * num_anchors(self.answers, learnt)
        self.steps = self.blocks = 0
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.steps, self.blocks = state["steps"], state["blocks"]
        self._window = Window()
        settings.out.mkdir(parents=True, exist_ok=True)

    def _begin(self, state: dict[str, Any] | None) -> tuple[Net, Tensor | None]:
        """The net as the run finds it, and the tokens it drafts: target ids [V], None for all."""
        settings, target = self.settings, self.target
        if state is not None:
            net = build_net(settings, target, state["vocabulary"])
            net.load_state_dict(state["net"])
            return net, state["vocabulary"]
        if settings.start_from is not None:
            return load_net(settings.start_from, settings, target)
        tokens, size = _answer_tokens(self.answers), settings.draft_vocab_size
        vocabulary = frequent_tokens(tokens, size, target.config.vocab_size)
        net = build_net(settings, target, vocabulary)
        if settings.from_target:
            begin_with_target(net, target.config, read_weights(settings.model))
        return net, vocabulary

    def take_step(self) -> None:
        batch = self.batches.step(self.steps)
        counts = torch.stack(
            [self.objective.divisor(batch), torch.tensor(float(len(batch.anchors))).to(self.place.device)]
        )
        divisor, num_blocks = self.place.total(counts)
        rate = self.settings.learning_rate * schedule(self.blocks / self.total_blocks, self.settings.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scores: Scores = self.module(batch, divisor, self.place.num_processes)
        self.optimizer.zero_grad(set_to_none=True)
        scores.loss.backward()
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self.settings.clip)
        self.optimizer.step()
        self.steps += 1
        self.blocks += int(num_blocks)
        self._window.add(scores, int(num_blocks), float(norm))
        if self.steps % self.settings.log_every_steps == 0 and self.place.rank == 0:
            self._log(rate)

    def line(self) -> str:
        """How it goes, in a few words."""
        return f"step {self.steps}, {self._window.last}"

    def _log(self, rate: float) -> None:
        row = {
            "step": self.steps,
            "blocks": self.blocks,
            "learning_rate": f"{rate:.3e}",
            **self._window.take(),
        }
        _append(self.settings.out / "log.csv", row)

    def save(self) -> None:
        """Write the state, the drafter and how it does on what was held out."""
        out = self.settings.out
        state = {
            "settings": _lasting(self.settings),
            "net": self.objective.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "vocabulary": self.vocabulary,
            "steps": self.steps,
            "blocks": self.blocks,
        }
        scratch = out / ".state.pt.part"
        torch.save(state, scratch)
        scratch.replace(out / "state.pt")
        write_drafter(out / "drafter", self.objective.net, self.settings, self.target.config, self.vocabulary)
        if len(self.held_out):
            _append(
                out / "held_out.csv", {"step": self.steps, "blocks": self.blocks, **_columns(self.measure())}
            )

    def measure(self) -> HeldOut:
        """How the drafter would do on the answers held out."""
        return measure(self.objective, self.batches, self.answers, self.held_out.tolist())


class Window:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self.last = "no step yet"
        self._clear()

    def _clear(self) -> None:
        self._sums: Tensor | None = None
        self._accepted: tuple[Tensor, Tensor] | None = None
        self._steps = self._blocks = 0
        self._begun_s = time.perf_counter()

    def add(self, scores: Scores, num_blocks: int, norm: float) -> None:
        parts = [scores.loss.detach(), scores.cross_entropy, scores.total_variation, scores.confidence]
        sums = torch.stack([*parts, torch.tensor(norm, device=scores.loss.device)])
        self._sums = sums if self._sums is None else self._sums + sums
        seen = scores.accepted, scores.counted
        before = self._accepted
        self._accepted = seen if before is None else (before[0] + seen[0], before[1] + seen[1])
        self._steps += 1
        self._blocks += num_blocks

    def take(self) -> dict[str, str]:
        """The means, by name."""
        if self._sums is None or self._accepted is None:
            return {}
        names = ("loss", "cross_entropy", "total_variation", "confidence", "gradient_norm")
        means = (self._sums / self._steps).tolist()
        row = {name: f"{mean:.5f}" for name, mean in zip(names, means, strict=True)}
        shares = (self._accepted[0] / self._accepted[1].clamp_min(1)).tolist()
        row |= {f"accept_{slot + 1}": f"{share:.4f}" for slot, share in enumerate(shares)}
        row["blocks_per_s"] = f"{self._blocks / (time.perf_counter() - self._begun_s):.1f}"
        self.last = f"loss {row['loss']}, {row['blocks_per_s']} blocks/s"
        self._clear()
        return row


def schedule(done: float, warmup: float) -> float:
    """Share of the learning rate after this share of the blocks: a rise to 1, then half a cosine to 0."""
    if done < warmup:
        return max(done / warmup, 1e-3)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - warmup) / (1.0 - warmup))))


def _weights(settings: TrainSettings) -> LossWeights:
    if settings.kind == "dspark":
        return LossWeights(settings.cross_entropy, settings.total_variation, settings.confidence)
    if settings.kind == "dflash":
        return LossWeights(1.0, 0.0, 0.0)
    return LossWeights(1.0, 0.0, 0.0, decay=_CHAIN_DECAY, is_soft=True)


def _state_to_resume(settings: TrainSettings) -> dict[str, Any] | None:
    """What the run left, on the CPU; None for one that begins. StartError where it is another run's."""
    path = settings.out / "state.pt"
    if not settings.resume:
        if path.exists():
            raise StartError(f"{path} is there already: --resume goes on with it; or name another --out")
        return None
    if not path.exists():
        raise StartError(f"there is no {path} to resume")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    differing = [name for name, value in _lasting(settings).items() if state["settings"].get(name) != value]
    if differing:
        raise StartError(f"{path} was made with another {', '.join(differing)}")
    return state


def _load_target(settings: TrainSettings, device: torch.device) -> Model:
    config = read_config(settings.model)
    return load_model(config, settings.model, choose_format(settings.dtype, device, config), device)


def _check(settings: TrainSettings, target: Model, answers: Answers, layer_ids: tuple[int, ...]) -> None:
    config = target.config
    try:
        check_capture((*layer_ids, LAST_HIDDEN), config.num_layers)
    except ValueError as error:
        raise StartError(f"target_layer_ids: {error}") from None
    if settings.layers > config.num_layers:
        raise StartError(f"layers is {settings.layers}, more than the target's {config.num_layers}")
    if settings.mask_token_id >= config.vocab_size:
        raise StartError(f"mask_token_id {settings.mask_token_id} is outside the target's vocabulary")
    if len(answers.tokens) == 0:
        raise StartError("the files of answers are empty")
    if int(answers.tokens.max()) >= config.vocab_size:
        raise StartError(
            f"the answers hold token {answers.tokens.max()}, which {settings.model.name} does not have"
        )


def _answer_tokens(answers: Answers) -> np.ndarray:
    starts = answers.offsets[:-1] + answers.prompt_len
    return np.concatenate([answers.tokens[a:b] for a, b in zip(starts, answers.offsets[1:], strict=True)])


def _lasting(settings: TrainSettings) -> dict[str, Any]:
    """What may not change when a run goes on, as plain values."""
    names = [name for name in TrainSettings.__slots__ if name not in _EXTENSIBLE]
    values = {name: getattr(settings, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return (
        [str(one) if isinstance(one, Path) else one for one in value] if isinstance(value, tuple) else value
    )


def _columns(held_out: HeldOut) -> dict[str, str]:
    row = {"mean": held_out.mean, **held_out.by_domain}
    row |= {f"accept_{slot + 1}": share for slot, share in enumerate(held_out.accepted)}
    return {name: f"{value:.4f}" for name, value in row.items()}


def _append(path: Path, row: dict[str, Any]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if is_new:
            writer.writeheader()
        writer.writerow(row)


@contextmanager
def _processes(settings: TrainSettings) -> Iterator[Place]:
    """This process's place: alone, or as torchrun says."""
    device = choose_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if device.type == "cpu":
        _keep_memory()
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Place(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Place(dist.get_rank(), count, device)
    finally:
        dist.destroy_process_group()


def _keep_memory() -> None:
    """Let glibc keep what is freed: fresh pages for every large tensor take longer than filling them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Says whether SIGINT or SIGTERM came; the step under way is finished first."""
    came: list[int] = []
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(one, lambda number, frame: came.append(number)) for one in wanted]
    try:
        yield lambda: bool(came)
    finally:
        for one, handler in zip(wanted, before, strict=True):
            signal.signal(one, handler)


def main() -> int:
    """`python -m engine.training.train`: train with options or a recipe."""
    from engine.__main__ import progress_bar

    parser = argparse.ArgumentParser(prog="python -m engine.training.train", description=__doc__)
    add_arguments(parser)
    try:
        with progress_bar() as progress:
            train(settings_of(parser.parse_args()), progress)
    except StartError as error:
        print(f"drafter: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
