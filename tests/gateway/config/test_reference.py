"""docs/policy-reference.md: up to date, whole, and with no dead link inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import reference
from gateway.config.deployment import OpenAITarget
from gateway.config.policy_file import DefaultsFile, ShapeFile

PAGE = Path(__file__).resolve().parents[3] / "docs" / "policy-reference.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.markdown(), (
        "run: python -m gateway.config.reference > docs/policy-reference.md"
    )


def test_every_key_of_a_model_is_a_row_of_its_section() -> None:
    sections = dict(
        re.findall(r"^### (.+?)\n(.+?)(?=^##)", PAGE.read_text() + "\n##", re.DOTALL | re.MULTILINE)
    )
    for title, model in (
        ("A task shape", ShapeFile),
        ("defaults", DefaultsFile),
        ("A target of kind openai", OpenAITarget),
    ):
        assert re.findall(r"^\| `(\w+)`", sections[title], re.MULTILINE) == list(model.model_fields)


def test_links_lead_to_headings_and_pages() -> None:
    text = PAGE.read_text()
    headings = {
        title.lower().replace(".", "").replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for target in set(re.findall(r"\]\(([^)]+)\)", text)):
        assert target[1:] in headings if target.startswith("#") else (PAGE.parent / target).is_file()


def test_a_key_without_a_sentence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = {key: text for key, text in reference.MEANINGS.items() if key != "explore"}
    monkeypatch.setattr(reference, "MEANINGS", fewer)
    with pytest.raises(LookupError, match=r"DefaultsFile\.explore has no sentence"):
        reference.markdown()


def test_a_sentence_without_a_key_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "MEANINGS", {**reference.MEANINGS, "gone": "a key of old"})
    with pytest.raises(LookupError, match="gone"):
        reference.markdown()
