"""Figures that one page takes from another are still those of the page that they come from."""

from __future__ import annotations

import re

from tests.docs.test_docs import DOCS, ROOT


def rows(page: str, first_column: str) -> dict[str, list[str]]:
    """The table whose head begins so, by its first column, without bold type."""
    text = (DOCS / page).read_text().replace("**", "")
    (table,) = re.findall(rf"^\| {re.escape(first_column)} \|.*\n(?:\|.*\n)+", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {line[0]: line[1:] for line in [cells[0], *cells[2:]]}


def test_routing_as_told_beside_others() -> None:
    table = rows("routing.md", "world")
    names = table.pop("world")

    def span(name: str) -> str:
        found = [float(line[names.index(name)].split()[0]) for line in table.values()]
        return f"{min(found):.2f} to {max(found):.2f}"

    told = " ".join((DOCS / "comparison.md").read_text().split())
    assert f"sparkgate {span('sparkgate')}, LiteLLM's Router" in told
    litellm = span("LiteLLM's Router")
    assert f"lowest latency) {litellm}, " in told
    assert f"power of two choices {span('Peak-EWMA with P2C')}, Prequal {span('Prequal')}" in told
    assert f"[{span('sparkgate')} times an oracle" in (ROOT / "README.md").read_text()


def test_the_gateways_speed_as_told_beside_others() -> None:
    measured = (DOCS / "performance.md").read_text()
    table = rows("comparison.md", "gateway")
    del table["gateway"]
    assert len(table) == 5
    for name, cells in table.items():
        for figure in re.findall(r"\d[\d,.]*\d", " ".join(cells)):
            assert figure in measured, f"{name}: {figure} is not in performance.md"
