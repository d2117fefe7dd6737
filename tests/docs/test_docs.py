"""README and docs: no dead link, every command line is one of the CLI's, every file that is shown loads.

What a page shows as sparkgate.yaml, policy.yaml, JSON or Python is read as such. A policy may name the targets of the
page that it stands on; of a page that shows none, any.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from gateway.config.deployment import Deployment
from gateway.config.load import load_policy, parse_deployment
from gateway.config.policy_file import PolicyFile
from tests.command_lines import unparsed

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*.md"), *ROOT.glob("engine/**/*.md")]
)
NAMED = [str(page.relative_to(ROOT)) for page in PAGES]
OTHERS = {
    "spec",
    "scrape_configs",
    "services",
    "apiVersion",
}  # Prometheus, compose, Kubernetes: theirs to check


class Block(NamedTuple):
    line: int
    language: str
    text: str


def prose_and_blocks(page: Path) -> tuple[str, list[Block]]:
    """The page without its fenced and indented blocks, and these."""
    prose: list[str] = []
    blocks: list[Block] = []
    fence: tuple[str, int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is None and (opened := re.match(r"( *)(```+)(\w*)", line)):
            fence, inside = (opened[2], len(opened[1]), opened[3]), []
        elif fence is not None and line.strip() == fence[0]:
            blocks.append(Block(number - len(inside), fence[2], "\n".join(inside) + "\n"))
            fence = None
        elif fence is not None:
            inside.append(line[fence[1] :])
        elif line.startswith("    ") and not re.match(r" +([-*|]|\d+\.) ", line):
            blocks.append(Block(number, "indented", line[4:] + "\n"))
        else:
            prose.append(line)
    assert fence is None, f"{page}: a fenced block has no end"
    return "\n".join(prose), blocks


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    prose, _ = prose_and_blocks(page)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_links_lead_somewhere(page: Path) -> None:
    prose, _ = prose_and_blocks(page)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: the page has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_every_picture_has_words(page: Path) -> None:
    prose, _ = prose_and_blocks(page)
    assert all(len(words) > 3 for words in re.findall(r"!\[([^\]]*)\]", prose))


def command_lines(page: Path) -> Iterator[str]:
    prose, blocks = prose_and_blocks(page)
    for block in blocks:
        if block.language in ("indented", "bash", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if re.match(r"(\$ |# )?([A-Z_]+=\S+ )*(\.venv/bin/)?sparkgate [a-z-]", line):
                    yield re.sub(r"^[$#] ", "", line)
    for span in re.findall(r"`([^`]+)`", prose):
        line = " ".join(span.split())
        if re.match(r"(\.venv/bin/)?sparkgate [a-z-]+", line):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_command_lines_are_ours(page: Path) -> None:
    if page.name in ("CHANGELOG.md", "DECISIONS.md"):
        pytest.skip("tells of what was")
    wrong = {line: why for line in command_lines(page) if (why := unparsed(line.replace(".venv/bin/", "")))}
    assert wrong == {}


class Anything(Mapping[str, str]):
    """An environment in which every variable is set."""

    def __getitem__(self, name: str) -> str:
        return "1"

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def get(self, name: str, default: Any = None) -> Any:
        return "1"


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_yaml_is_what_it_shows(page: Path) -> None:
    _, blocks = prose_and_blocks(page)
    shown = [(block, yaml.safe_load(block.text)) for block in blocks if block.language == "yaml"]
    targets: set[str] = set()
    for block, values in shown:
        where = f"{page.name}:{block.line}"
        if set(values) <= set(Deployment.model_fields):
            targets |= {*parse_deployment(block.text, where, Anything()).target_names} - {"engine"}
    for block, values in shown:
        where = f"{page.name}:{block.line}"
        if set(values) <= set(PolicyFile.model_fields):
            load_policy(block.text, where, {*targets, "engine"} if targets else None)
        else:
            known = set(values) <= set(Deployment.model_fields) or set(values) & OTHERS
            assert known, f"{where}: neither a sparkgate.yaml nor a policy.yaml: {sorted(values)}"


@pytest.mark.parametrize("page", PAGES, ids=NAMED)
def test_json_and_python_can_be_read(page: Path) -> None:
    for block in prose_and_blocks(page)[1]:
        if block.language == "json":
            for text in [block.text] if block.text.count("\n{") == 0 else block.text.splitlines():
                json.loads(text)
        elif block.language == "python":
            ast.parse(block.text)


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} - {"README.md"}
    assert {page for page in pages if f"]({page})" not in index} == set()


def test_every_picture_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for name in re.findall(r"\(\S*?images/([\w.]+)\)", page.read_text())}
    assert {path.name for path in (DOCS / "images").iterdir()} - shown == set()
