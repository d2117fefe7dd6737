"""The text being edited, and the browser's part that shows it with numbered lines and marked mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from dashboard.policies.gateway import Mistake
from dashboard.policies.queries import Version

KEY = "policy_editor"
SAID = "policy_said"  # what became of the last thing that was asked for, until the next is typed: (kind, title, body)
_HERE = Path(__file__).parent
_HTML = """<div class="editor"><div class="numbers" aria-hidden="true"></div><div class="pane">
<div class="marks" aria-hidden="true"></div><textarea aria-label="policy.yaml" spellcheck="false" wrap="off"
autocapitalize="off" autocomplete="off"></textarea></div></div>"""
_component = st.components.v2.component(
    "sparkgate.policy_editor",
    html=_HTML,
    css=(_HERE / "editor.css").read_text(),
    js=(_HERE / "editor.js").read_text(),
)


@dataclass(slots=True)
class Draft:
    """A text made from the version `base`. Each `revision` is a text that was not typed, but put there."""

    base: Version
    text: str
    revision: int = 0

    @property
    def is_changed(self) -> bool:
        return self.text != self.base.yaml

    def put(self, base: Version, text: str) -> None:
        self.base, self.text, self.revision = base, text, self.revision + 1


def draft(in_force: Version) -> Draft:
    """The reader's, which lasts for the session; one that was not touched follows what is in force."""
    mine: Draft | None = st.session_state.get("policy_draft")
    if mine is None:
        mine = st.session_state["policy_draft"] = Draft(in_force, in_force.yaml)
    elif not mine.is_changed and mine.base.hash != in_force.hash:
        mine.put(in_force, in_force.yaml)
    return mine


def edit(mine: Draft, mistakes: Sequence[Mistake]) -> None:
    """Shows the text; what the reader types is in `mine` at the next turn."""
    words: dict[str, str] = {}
    for mistake in mistakes:
        line = str(mistake.line or 1)
        words[line] = "\n".join(filter(None, [words.get(line), mistake.message]))
    data: dict[str, Any] = {"text": mine.text, "revision": mine.revision, "mistakes": words}
    _component(key=KEY, data=data, on_text_change=lambda: _take(mine))


def _take(mine: Draft) -> None:
    text = st.session_state[KEY].get("text")
    if text is not None:
        mine.text = text
        st.session_state.pop(SAID, None)
