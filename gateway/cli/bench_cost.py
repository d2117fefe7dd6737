"""`sparkgate bench engine --cost`: what output tokens of an own machine cost, beside models paid by the token.

In: options; a rate that is given, that of a stored run, or those just measured. Out: two tables or JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import bench_runs, options
from gateway.cli.output import Refused, print_json, print_table

if TYPE_CHECKING:
    from gateway.bench.engine.costs import Machine, Upstream

_CONFIGURED = "engine.cost_per_hour_usd"
_PANEL = "What tokens cost"

Cost = Annotated[bool, typer.Option("--cost", help="Say what tokens cost.", rich_help_panel=_PANEL)]
UsdPerHour = Annotated[
    float | None,
    typer.Option(
        min=0, help="Of this machine.", metavar="USD", show_default=_CONFIGURED, rich_help_panel=_PANEL
    ),
]
TokensPerS = Annotated[
    str | None,
    typer.Option(
        help="Of a machine kept busy: reckon, measure nothing.", metavar="N,…", rich_help_panel=_PANEL
    ),
]
StoredRun = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="Take the rates of a stored run: latest, latest~1, its id.",
        metavar="RUN",
        rich_help_panel=_PANEL,
    ),
]
Utilisation = Annotated[
    str,
    typer.Option(help="Shares of the time that it is used.", metavar="SHARE,…", rich_help_panel=_PANEL),
]
Beside = Annotated[
    str | None,
    typer.Option(
        help="Targets of sparkgate.yaml, or models by litellm's names.",
        metavar="MODEL,…",
        rich_help_panel=_PANEL,
    ),
]
InputPerOutput = Annotated[
    float,
    typer.Option(
        min=0, help="Input tokens for each of output, which upstreams charge.", rich_help_panel=_PANEL
    ),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be reckoned, as it was typed."""

    usd_per_hour: float | None
    tokens_per_s: str | None
    run: str | None
    utilisation: str
    beside: str | None
    input_per_output: float

    @property
    def needs_no_measurement(self) -> bool:
        return self.tokens_per_s is not None or self.run is not None


def check(is_cost: bool, asked: Asked, config: Path | None) -> None:
    """Raises Refused for what could not be reckoned, before anything is measured."""
    given = {"--tokens-per-s": asked.tokens_per_s, "--run": asked.run, "--beside": asked.beside}
    if not is_cost and (named := [name for name, value in given.items() if value is not None]):
        raise Refused(f"{', '.join(named)}: reckoned with only beside --cost")
    if asked.tokens_per_s is not None and asked.run is not None:
        raise Refused("--tokens-per-s and --run: give one of them, or neither to measure")
    if is_cost:
        hourly(asked, config)
        _compared(asked, [], config)


def hourly(asked: Asked, config: Path | None) -> float:
    """Dollars an hour, as given or configured. Raises Refused when nobody says."""
    if asked.usd_per_hour is not None:
        return asked.usd_per_hour
    configured = options.loaded_deployment(config).deployment.engine.cost_per_hour_usd
    if configured is None:
        raise Refused("--usd-per-hour: missing, and sparkgate.yaml has no engine.cost_per_hour_usd")
    return configured


def reckoned(asked: Asked, figures: Iterable[Mapping[str, Any]], config: Path | None) -> dict[str, Any]:
    """Costs of what was measured, as JSON values."""
    from gateway.bench.engine.costs import fastest

    return _compared(asked, fastest(figures, hourly(asked, config)), config)


def reckon(asked: Asked, config: Path | None, data_dir: Path, *, as_json: bool) -> None:
    """`--cost` without a measurement."""
    from gateway.bench.engine.costs import Machine, fastest

    usd_per_hour = hourly(asked, config)
    if asked.run is None:
        rates = _positive("--tokens-per-s", asked.tokens_per_s or "")
        machines = [Machine(f"{rate:,g} tokens/s", usd_per_hour, rate) for rate in rates]
    else:
        machines = fastest(_stored_figures(asked.run, config, data_dir), usd_per_hour)
    found = _compared(asked, machines, config)
    if as_json:
        print_json(found)
    else:
        show(found)


def show(found: Mapping[str, Any]) -> None:
    """USD are shown to the cent, as prices are published."""
    machines = found["machines"]
    shares = [each["utilisation"] for each in machines[0]["usd_per_mtok"]] if machines else []
    columns = ["machine", "tokens/s", "USD/h", *(f"USD/M tokens, {share:.0%} used" for share in shares)]
    rows = [
        [it["name"], f"{it['tokens_per_s']:,g}", f"{it['usd_per_hour']:,.2f}"]
        + [f"{each['usd']:.2f}" for each in it["usd_per_mtok"]]
        for it in machines
    ]
    print_table(columns, rows, "No rate is known: nothing was measured.")
    if found["upstreams"]:
        print()
        columns = ["model", "USD/M tokens", *(f"{it['name']}: cheaper above" for it in machines)]
        rows = [
            [it["name"], f"{it['usd_per_mtok']:.2f}", *map(_break_even, it["break_even"])]
            for it in found["upstreams"]
        ]
        print_table(columns, rows, "")


def _break_even(each: Mapping[str, Any]) -> str:
    if each["tokens_per_day"] is None:
        return "never, even if always used"
    return f"{each['tokens_per_day'] / 1e6:,.1f} M tokens a day ({each['utilisation']:.0%} used)"


def _compared(asked: Asked, machines: list[Machine], config: Path | None) -> dict[str, Any]:
    from gateway.bench.engine.costs import compared

    shares = _positive("--utilisation", asked.utilisation)
    if max(shares) > 1:
        raise Refused(f"--utilisation: {asked.utilisation!r} are no shares of the time; 1 is all of it")
    upstreams = [_upstream(name.strip(), config) for name in asked.beside.split(",")] if asked.beside else []
    return compared(machines, shares, upstreams, asked.input_per_output)


def _upstream(name: str, config: Path | None) -> Upstream:
    """A target's price, else the list's of that model."""
    from gateway.bench.engine.costs import Upstream
    from gateway.ledger.costs import price_for
    from gateway.ledger.price_map import litellm_prices

    deployment = options.loaded_deployment(config).deployment
    target = next((each for each in deployment.effective_targets if each.name == name), None)
    found = litellm_prices().find(name) if target is None else price_for(target, deployment.engine)
    tariff = None if found is None else found.tariff
    if tariff is None or tariff.standard.input is None or tariff.standard.output is None:
        raise Refused(
            f"--beside: {name!r} is no target of a known price, nor a model of litellm's price list"
        )
    return Upstream(name, float(tariff.standard.input), float(tariff.standard.output))


def _stored_figures(name: str, config: Path | None, data_dir: Path) -> list[dict[str, Any]]:
    from gateway.bench import store

    runs = store.find(bench_runs.database_url(config, data_dir), name, "engine")
    if len(runs) != 1:
        why = "several runs begin so" if runs else "no such run of `bench engine` is stored"
        raise Refused(f"--run {name}: {why}; `sparkgate bench list --kind engine` lists them")
    figures: list[dict[str, Any]] = runs[0]["results"]["figures"]
    return figures


def _positive(option: str, given: str) -> list[float]:
    try:
        numbers = [float(part) for part in given.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise Refused(f"{option}: {given!r} is not a list of numbers above 0, like 4000,6680")
    return numbers
