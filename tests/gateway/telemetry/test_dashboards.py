"""The Grafana dashboard and the alert rules of docs/ ask only for metrics and labels that a scrape has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from engine.metrics import EngineMetrics
from gateway.telemetry.figures_shown import drain_figures, span_figures
from tests.engine.toy import load_toy, make_engine, write_toy_model
from tests.gateway.conftest import Gateway, Run

Prepare = Callable[..., Run]
DOCS = Path(__file__).resolve().parents[3] / "docs"
GRAFANA, ALERTS, GUIDE = DOCS / "grafana" / "sparkgate.json", DOCS / "alerts.yaml", DOCS / "observability.md"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
WORDS = {
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
}
FROM_PROMETHEUS = {"instance", "job", "le"}


@dataclass
class Counts:
    """What drain, feed and exporter count."""

    exchanges: int = 0
    quarantined: int = 0
    written_at: float = 0.0
    is_database_up: bool = True
    dropped_records: int = 0
    made: int = 0
    sent: int = 0
    dropped: int = 0


def panels() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(GRAFANA.read_text())["panels"]
    return listed


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def names_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression: its identifiers, but for labels, functions and words of the language."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without)\s*\([^)]*\)", " ", expression)
    found = re.finditer(r"[a-zA-Z_:][a-zA-Z0-9_:]*(\s*\()?", bare)
    return {match[0] for match in found if not match[1]} - WORDS


def labels_in(expression: str) -> set[str]:
    matched = re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    grouped = re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression)
    return {*matched, *(name.strip() for group in grouped for name in group.split(","))}


def expressions() -> Iterator[str]:
    for panel in panels():
        for target in panel.get("targets", ()):
            yield target["expr"]
    for rule in rules():
        yield rule["expr"]


@pytest.fixture
def scrapes(with_gateway: Prepare, tmp_path: Path) -> list[str]:
    """What gateway, drain and engine say: every family, though few have samples yet."""
    found: list[str] = []

    async def look(gateway: Gateway) -> None:
        found.append((await gateway.get("/metrics"))[1].decode())

    with_gateway()(look)
    registry = CollectorRegistry()
    drain_figures(Counts(), Counts(), registry)
    span_figures(Counts(), registry)
    write_toy_model(tmp_path / "toy")
    engine = EngineMetrics(make_engine(load_toy(tmp_path / "toy")), "toy")
    return [*found, generate_latest(registry).decode(), engine.render().decode()]


@pytest.fixture
def known(scrapes: list[str]) -> set[str]:
    families = [family for text in scrapes for family in text_string_to_metric_families(text)]
    names = {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}
    return {name for name in names if not name.endswith("_created")}


def test_every_metric_that_is_asked_for_is_in_a_scrape(known: set[str]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for expression in expressions() for name in names_in(expression)}
    assert len(asked) > 40
    assert asked - known - recorded == set()


def test_every_metric_of_a_scrape_is_in_the_guide(known: set[str]) -> None:
    guide = GUIDE.read_text()
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}
    plain = {
        re.sub(r"^sparkgate_engine_(shape|temperature|concurrency|context)_", "sparkgate_engine_", name)
        for name in plain
    }
    assert {name for name in plain if f"`{name}`" not in guide} == set()


def test_every_label_that_is_asked_for_is_one() -> None:
    sources = (
        "gateway/dispatch/metrics.py",
        "gateway/control/state_figures.py",
        "gateway/telemetry/figures_shown.py",
    )
    code = "".join((DOCS.parent / source).read_text() for source in (*sources, "engine/metrics.py"))
    labels = {label for expression in expressions() for label in labels_in(expression)} - FROM_PROMETHEUS
    assert {"target", "shape", "status"} <= labels
    assert {label for label in labels if f'"{label}"' not in code} == set()


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (a, b) (rate(x_total{c="d"}[5m])) > 0.005', {"x_total"}),
        ("time() - max(x > 0) and y unless z", {"x", "y", "z"}),
        ("histogram_quantile(0.95, sum by (le) (rate(x_bucket[$__rate_interval])))", {"x_bucket"}),
        ("a:b:c_rate5m > 14.4 * 0.05", {"a:b:c_rate5m"}),
    ],
)
def test_names_are_found(expression: str, names: set[str]) -> None:
    assert names_in(expression) == names


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = json.loads(GRAFANA.read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", GRAFANA.read_text())) - {"__rate_interval"}
    assert used - variables == set()
    assert dashboard["schemaVersion"] >= 36
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
        assert panel["type"] == "row" or letters


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts) >= 15
    guide = GUIDE.read_text()
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in guide
