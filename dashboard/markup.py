"""Small HTML pieces: cards, tables, chips, boxes. Everything that is not our own text is escaped here.

In: strings. Out: HTML strings for `st.html`. The look is in `look.CSS`; colours follow the theme by being
mixed from the current text colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Verdict = Literal["good", "bad", "unsure"]
Kind = Literal["good", "bad", "unsure", "plain"]
_SIGNS: dict[Verdict, str] = {"good": "✓", "bad": "✕", "unsure": "?"}


@dataclass(frozen=True, slots=True)
class Html:
    """Text that is HTML already; any other string gets escaped."""

    text: str

    def __str__(self) -> str:
        return self.text


Content = str | Html


def safe(content: Content) -> str:
    return content.text if isinstance(content, Html) else escape(content)


def join(parts: Iterable[Content], between: str = "") -> Html:
    return Html(between.join(safe(part) for part in parts))


def verdict(kind: Verdict, words: str) -> Html:
    return Html(f'<span class="sg-verdict sg-{kind}">{_SIGNS[kind]} {escape(words)}</span>')


def pill(words: str, kind: Kind = "plain") -> Html:
    return Html(f'<span class="sg-pill sg-{kind}">{escape(words)}</span>')


def chip(name: str, colour: str) -> Html:
    return Html(
        f'<span class="sg-chip"><i style="background:{escape(colour)}"></i>{escape(name)}</span>',
    )


def legend(names: Iterable[str], colour: Mapping[str, str], note: str = "") -> Html:
    chips = join(chip(name, colour[name]) for name in names)
    return Html(f'<div class="sg-legend">{chips}{muted(note) if note else ""}</div>')


def muted(words: Content) -> Html:
    return Html(f'<span class="sg-muted">{safe(words)}</span>')


def code(words: str) -> Html:
    return Html(f"<code>{escape(words)}</code>")


def hinted(content: Content, hint: str) -> Html:
    """Content with a tooltip."""
    return Html(f'<span title="{escape(hint)}">{safe(content)}</span>')


def card(key: str, label: str, value: Content, *notes: Content) -> Html:
    """One figure of the top row, with a line for each note. `key` names it in the page."""
    lines = "".join(f'<div class="sg-note">{safe(note)}</div>' for note in notes if safe(note))
    return Html(
        f'<div class="sg-card" data-key="{escape(key)}"><div class="sg-label">{escape(label)}</div>'
        f'<div class="sg-value">{safe(value)}</div>{lines}</div>'
    )


def cards(items: Iterable[Html], *, wide: bool = False) -> Html:
    """A row of cards; `wide` shares it out equally among fewer than eight."""
    return Html(f'<div class="sg-cards{" sg-wide" if wide else ""}">{join(items)}</div>')


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and whether the cells are numbers (right-aligned, equal digit widths)."""

    title: str
    is_number: bool = False
    hint: str = ""
    is_minor: bool = False  # left out on a narrow page


_CLASSES = (("sg-number", "is_number"), ("sg-minor", "is_minor"))


def table(columns: Sequence[Column], rows: Iterable[Sequence[Content]], key: str) -> Html:
    """A table that scrolls sideways by itself on a narrow page."""
    head = "".join(_cell("th", column, Html(escape(column.title))) for column in columns)
    body = "".join(
        "<tr>"
        + "".join(_cell("td", column, cell) for column, cell in zip(columns, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return Html(
        f'<div class="sg-scroll" tabindex="0"><table class="sg-table" data-key="{escape(key)}">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, Content]]) -> Html:
    """A list of label and value, as many columns as fit."""
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{safe(value)}</dd></div>" for label, value in pairs)
    return Html(f'<dl class="sg-facts">{items}</dl>')


def heading(words: str, note: Content = "") -> Html:
    return Html(f'<div class="sg-heading"><h3>{escape(words)}</h3><span>{safe(note)}</span></div>')


def box(kind: Literal["bad", "info"], title: str, body: Content) -> Html:
    role = "alert" if kind == "bad" else "note"
    return Html(
        f'<div class="sg-box sg-box-{kind}" role="{role}"><strong>{escape(title)}</strong>{safe(body)}</div>'
    )


def pre(words: str) -> Html:
    return Html(f"<pre>{escape(words)}</pre>")


def _cell(tag: str, column: Column, content: Content) -> str:
    classes = " ".join(name for name, on in _CLASSES if getattr(column, on))
    marked = f' class="{classes}"' if classes else ""
    hint = f' title="{escape(column.hint)}"' if column.hint and tag == "th" else ""
    return f"<{tag}{marked}{hint}>{safe(content)}</{tag}>"
