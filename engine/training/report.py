"""What an evaluation says, or several beside each other: as JSON values, as a table, and as a picture.

In: `Rounds` and `Pace`s by domain. Out: dicts, lines of text, panels of a picture. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Ordered
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from engine.drafters.calibration import CALIBRATION_BINS, calibrate, summary, survival
from engine.training.chart import Panel, Points
from engine.training.evaluate import Evaluation, Rounds
from engine.training.prompts import Prompt

MEAN = "mean"  # over domains, each counting the same
_REFERENCE = "dspark"  # which others are compared with
_MADE = ("slots", "learning_rate", "blocks", "megabytes")


def figures(found: Evaluation, prompts: Ordered[Prompt]) -> dict[str, Any]:
    """By domain, and their mean."""
    domains = {domain: _of_domain(found, domain, prompts) for domain in found.drafted}
    means = {
        name: _mean([each[name] for each in domains.values()])
        for name in ("accepted_length", "verify_rate", "tokens_per_s", "plain_tokens_per_s", "speedup")
    }
    slots = {
        name: [_mean(column) for column in zip(*(each[name] for each in domains.values()), strict=True)]
        for name in ("survival", "conditional")
    }
    result = {"domains": domains, MEAN: means | slots}
    return result | (
        {"confidence": confidence_figures(found.rounds)} if _has_confidence(found.rounds) else {}
    )


def confidence_figures(rounds: Rounds) -> dict[str, Any]:
    """How well confidence foretells survival: of each slot, and over them by their number of labels."""
    slots = calibrate(survival(rounds.logits), rounds.stood, rounds.tested)
    return {"slots": [asdict(slot) for slot in slots], "all": asdict(summary(slots))}


def _has_confidence(rounds: Rounds) -> bool:
    return rounds.has_confidence and bool(rounds.tested.any())


def _of_domain(found: Evaluation, domain: str, prompts: Ordered[Prompt]) -> dict[str, Any]:
    numbers = [number for number, prompt in enumerate(prompts) if prompt.domain == domain]
    rounds = found.rounds.where(torch.isin(found.rounds.prompts, torch.tensor(numbers)))
    rate = found.drafted[domain].tokens_per_s
    plain = found.plain[domain].tokens_per_s if found.plain is not None else None
    return {
        "answers": len(numbers),
        "rounds": len(rounds),
        "accepted_length": rounds.accepted_length,
        "verify_rate": rounds.verify_rate,
        "survival": rounds.survival,
        "conditional": rounds.conditional,
        "tokens_per_s": rate,
        "plain_tokens_per_s": plain,
        "speedup": rate / plain if rate and plain else None,
    }


def table(figures: Mapping[str, Any]) -> str:
    """A row a domain: figures in the first columns, then survival and conditional acceptance of each slot."""
    rows = [*figures["domains"].items(), (MEAN, figures[MEAN])]
    num_slots = len(figures[MEAN]["survival"])
    heads = [
        "domain",
        "accepted",
        "tok/s",
        "plain",
        "ratio",
        *(f"slot {at}" for at in range(1, num_slots + 1)),
    ]
    lines = [_line(heads)]
    for name, each in rows:
        numbers = [each["accepted_length"], each["tokens_per_s"], each["plain_tokens_per_s"], each["speedup"]]
        cells = [_written(value, digits) for value, digits in zip(numbers, (2, 1, 1, 2), strict=True)]
        lines.append(_line([name, *cells, *(_written(one, 3) for one in each["survival"])]))
        lines.append(
            _line(["", "", "", "", "if before:", *(_written(one, 3) for one in each["conditional"])])
        )
    if "confidence" in figures:
        found = figures["confidence"]["all"]
        lines.append(
            f"confidence: calibration error {found['calibration_error']:.3f}, "
            f"AUROC {_written(found['auroc'], 3)}, Brier {found['brier']:.3f}"
        )
    return "\n".join(lines)


def _line(cells: Ordered[str]) -> str:
    return cells[0].ljust(8) + "".join(
        cell.rjust(11 if at == 4 else 9) for at, cell in enumerate(cells[1:], 1)
    )


def survival_panel(figures: Mapping[str, Any]) -> Panel:
    """Survival by slot, a line a domain."""
    lines = {domain: _by_slot(each["survival"]) for domain, each in figures["domains"].items()}
    return Panel("share of drafts that stood, by slot", lines, 1.0, float(len(figures[MEAN]["survival"])))


def reliability_panels(before: Rounds, after: Rounds) -> list[Panel]:
    """A panel a slot: what was foretold against what came, before temperatures and after."""
    panels = []
    for slot in range(before.logits.shape[1]):
        lines = {
            name: reliability(survival(rounds.logits)[:, slot], rounds.stood[:, slot], rounds.tested[:, slot])
            for name, rounds in (("as trained", before), ("with temperatures", after))
        }
        panels.append(Panel(f"slot {slot + 1}: survived / predicted", lines, 0.0, 1.0, has_diagonal=True))
    return panels


def reliability(predicted: Tensor, survived: Tensor, counts: Tensor) -> Points:
    """Mean prediction and share that survived in each bin that is not empty. All [R]."""
    predicted, survived = predicted[counts], survived[counts].double()
    bins = (predicted * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)
    return [
        (float(predicted[bins == one].mean()), float(survived[bins == one].mean()))
        for one in bins.unique().tolist()
    ]


def conditional_panels(drafters: Mapping[str, Any]) -> list[Panel]:
    """A panel a domain and one of their mean, a line a drafter. In: figures by drafter, of the same prompts."""
    domains = next(iter(drafters.values()))["domains"]
    most = max(len(each[MEAN]["conditional"]) for each in drafters.values())
    return [
        Panel(
            at,
            {name: _by_slot(_at(each, at)["conditional"]) for name, each in drafters.items()},
            1.0,
            float(most),
        )
        for at in (*domains, MEAN)
    ]


def comparison_rows(drafters: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each drafter, temperature and domain. In: `drafters` of `compare.measure_all`.

    `dspark_ratio` is DSpark's accepted length over this one; None where DSpark is not compared.
    """
    rows, reference = [], drafters.get(_REFERENCE)
    for name, one in drafters.items():
        for temperature, found in one["temperatures"].items():
            for at in (*found["domains"], MEAN):
                each, ratio = _at(found, at), None
                if reference is not None:
                    other = _at(reference["temperatures"][temperature], at)
                    ratio = other["accepted_length"] / each["accepted_length"]
                rows.append(
                    {"drafter": name, **{key: one.get(key) for key in _MADE}}
                    | {"temperature": temperature, "domain": at}
                    | {"accepted_length": each["accepted_length"], "dspark_ratio": ratio}
                    | {f"conditional_{slot}": share for slot, share in enumerate(each["conditional"], 1)}
                )
    return rows


def comparison_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Of rows of one temperature, a line a drafter: how it was made, accepted lengths, DSpark's mean over its."""
    drafters: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        drafters.setdefault(row["drafter"], {})[row["domain"]] = row
    domains = next(iter(drafters.values()))
    lines = [["drafter", "slots", "rate", "blocks", "MB", *domains, "dspark/it"]]
    for name, by_domain in drafters.items():
        made = by_domain[MEAN]
        rate = "-" if made["learning_rate"] is None else f"{made['learning_rate']:g}"
        lengths = [_written(by_domain[domain]["accepted_length"], 2) for domain in domains]
        blocks, size = _written(made["blocks"], 0), _written(made["megabytes"], 1)
        ratio = _written(made["dspark_ratio"], 2)
        lines.append([name, str(made["slots"]), rate, blocks, size, *lengths, ratio])
    return "\n".join(line[0].ljust(10) + "".join(cell.rjust(10) for cell in line[1:]) for line in lines)


def _at(figures: Mapping[str, Any], domain: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = figures[MEAN] if domain == MEAN else figures["domains"][domain]
    return found


def _by_slot(shares: Iterable[float | None]) -> Points:
    return [(float(slot), share) for slot, share in enumerate(shares, 1) if share is not None]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _written(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
