"""The policies page: the text in force and its versions; for admins an editor, explained calls and replays.

What is stored is read from the ledger; what changes something, or decides something, is asked of the gateway.
"""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboard import access, frame, markup, page
from dashboard.database import LedgerUnavailable
from dashboard.frame import View
from dashboard.markup import Content
from dashboard.policies import differences, queries, tables, trials
from dashboard.policies.editor import SAID, Draft, draft, edit
from dashboard.policies.gateway import CONFLICT, Gateway, Mistake, Refused
from dashboard.policies.queries import Version
from dashboard.spans import SPANS

_REFRESH_S = 5
_SHOWN = 50
_ASKED = "policy_rollback"  # the id of the version that the reader is being asked about


def policies() -> None:
    frame.refreshed(_content, View(SPANS["7 d"], None, is_live=False), _REFRESH_S)


def _content(ledger: Engine, view: View) -> None:
    in_force, reader = queries.in_force(ledger), access.reader()
    st.fragment(_watch, run_every=_REFRESH_S)(in_force)
    if in_force is None:
        body = markup.join(["A gateway publishes one when it starts: ", markup.code("sparkgate up"), "."])
        page.show(markup.box("info", "No policy has been published", body))
        return
    if reader is None or not reader.may_edit:
        page.show(tables.top_row(in_force, None, None, page.now()))
        _for_onlookers(in_force, is_known=reader is not None)
        _versions(ledger, in_force, None)
        return
    gateway, mine = Gateway(reader.key), draft(in_force)
    mistakes, trouble = _checked(gateway, mine.text)
    page.show(tables.top_row(in_force, mine, mistakes, page.now()))
    _say(trouble)
    _editor(mine, in_force, mistakes)
    trials.explain(gateway, ledger, mine)
    trials.replay(gateway, ledger, mine)
    _versions(ledger, in_force, mine)


def _watch(shown: Version | None) -> None:
    """Draws the page anew when another version is in force, and only then: an open list would close."""
    try:
        newest = queries.in_force(page.ledger())
    except LedgerUnavailable:
        return
    if (newest and newest.id) != (shown and shown.id):
        st.rerun()


def _for_onlookers(in_force: Version, *, is_known: bool) -> None:
    has = "Your key may only read." if is_known else "No key was given."
    link = markup.Html(f'<a href="{frame.way_in()}" target="_self">sign in</a>')
    words: list[Content] = [has, " To edit, explain and replay policies, ", link]
    page.show(markup.box("info", "Read only", markup.join([*words, " with one of scope admin."])))
    with page.panel("policy_text"):
        page.show(markup.heading("In force", markup.code(in_force.hash[: tables.HASH_CHARS])))
        st.code(in_force.yaml, language="yaml", line_numbers=True)


def _checked(gateway: Gateway, text: str) -> tuple[list[Mistake] | None, str | None]:
    """The mistakes of the text, else why nobody could tell. A text is checked once."""
    known: tuple[str, list[Mistake]] | None = st.session_state.get("policy_checked")
    if known is not None and known[0] == text:
        return known[1], None
    try:
        found = gateway.check(text)
    except Refused as error:
        return None, str(error)
    st.session_state["policy_checked"] = (text, found)
    return found, None


def _say(trouble: str | None) -> None:
    with page.place(trouble is not None):
        if trouble is not None:
            page.show(markup.box("bad", "The text cannot be checked", trouble))
    said = st.session_state.get(SAID)
    with page.place(said is not None):
        if said is not None:
            page.show(markup.box(*said))


def _editor(mine: Draft, in_force: Version, mistakes: list[Mistake] | None) -> None:
    is_behind = mine.base.hash != in_force.hash
    with page.panel("policy_editor"):
        note = markup.join(["made from ", markup.code(mine.base.hash[: tables.HASH_CHARS])])
        page.show(markup.heading("policy.yaml", note))
        with page.place(is_behind):
            if is_behind:
                _meanwhile(mine, in_force)
        with st.container(key="charts_policy"):
            left, right = st.columns([3, 2])
        with left:
            edit(mine, mistakes or [])
        with right:
            _beside(mine, in_force, mistakes)
        with st.container(horizontal=True, key="policy_actions"):
            st.button(
                "Save as a new version",
                type="primary",
                disabled=is_behind or not mine.is_changed or mistakes is None or bool(mistakes),
                on_click=_publish,
                args=(mine,),
            )
            st.button(
                "Discard changes",
                disabled=not mine.is_changed,
                on_click=mine.put,
                args=(in_force, in_force.yaml),
            )
            st.download_button(
                "Download", mine.text, "policy.yaml", "application/yaml", on_click="ignore", type="tertiary"
            )


def _meanwhile(mine: Draft, in_force: Version) -> None:
    body = markup.join(
        [
            markup.code(in_force.hash[: tables.HASH_CHARS]),
            f" came into force, published by {tables.who(in_force.source)}. Nothing of yours is lost: look at what "
            "differs from it, and take over what should stay before you save.",
        ]
    )
    page.show(markup.box("bad", "Another version was published meanwhile", body))
    st.button("Compare with the new version", on_click=_rebase, args=(mine, in_force))


def _rebase(mine: Draft, in_force: Version) -> None:
    mine.base = in_force
    st.session_state.pop(SAID, None)


def _beside(mine: Draft, in_force: Version, mistakes: list[Mistake] | None) -> None:
    with page.place(bool(mistakes)):
        if mistakes:
            page.show(markup.heading("Mistakes", "of your text"))
            page.show(tables.mistakes(mistakes))
    lines = differences.differences(in_force.yaml, mine.text)
    page.show(
        markup.heading("Differences", markup.join(["from ", markup.code(in_force.hash[: tables.HASH_CHARS])]))
    )
    page.show(differences.drawn(lines) if lines else markup.muted("None: this is the text in force."))


def _admin() -> Gateway:
    """For whoever looks now. Raises Refused once the session is over: a page left open has its buttons still."""
    reader = access.reader()
    if reader is None or not reader.may_edit:
        raise Refused("Your session has ended; sign in again")
    return Gateway(reader.key)


def _publish(mine: Draft) -> None:
    try:
        published = _admin().publish(mine.text, mine.base.hash)
    except Refused as error:
        title = "Not saved: another version came first" if error.code == CONFLICT else "Not saved"
        st.session_state[SAID] = ("bad", title, f"{error}.")
        return
    mine.base = mine.base._replace(
        hash=published, yaml=mine.text
    )  # untouched again: follows what is in force
    body = (
        "In force on every gateway within 3 s. A policy.yaml on disk stays as it is until it is next edited."
    )
    st.session_state[SAID] = ("info", f"Version {published} is saved", body)


def _versions(ledger: Engine, in_force: Version, mine: Draft | None) -> None:
    found, zone = queries.versions(ledger, _SHOWN), page.reader_zone()
    with page.panel("policy_versions"):
        page.show(markup.heading("Versions", f"the newest {_SHOWN}; nothing is ever removed"))
        page.show(tables.versions(found, zone))
        names = {
            row[
                "id"
            ]: f"{row['published_at'].astimezone(zone):%d %b %H:%M:%S} · {row['hash'][: tables.HASH_CHARS]}"
            for row in found.to_dict("records")
        }
        chosen = st.selectbox(
            "Show a version",
            list(names),
            index=None,
            format_func=lambda it: names.get(it, it),
            key="policy_version",
        )
        shown = queries.version(ledger, chosen) if chosen else None
        with page.place(shown is not None):
            if shown is not None:
                _version(shown, in_force, mine)


def _version(shown: Version, in_force: Version, mine: Draft | None) -> None:
    with page.place(shown.error is not None):
        if shown.error is not None:
            page.show(markup.box("bad", "This text was refused", markup.pre(shown.error)))
    with page.place(shown.id != in_force.id):
        if shown.id != in_force.id:
            lines = differences.differences(in_force.yaml, shown.yaml)
            page.show(markup.heading("Differences", "from the version in force to this one"))
            page.show(differences.drawn(lines) if lines else markup.muted("None: the same text."))
    st.code(shown.yaml, language="yaml", line_numbers=True)
    if mine is None:
        return
    with st.container(horizontal=True, key="policy_version_actions"):
        st.button("Edit this text", on_click=mine.put, args=(in_force, shown.yaml))
        may_roll_back = shown.error is None and shown.hash != in_force.hash
        with page.place(may_roll_back):
            if may_roll_back:
                st.button("Roll back to it …", on_click=_ask, args=(shown.id,))
    is_asked = st.session_state.get(_ASKED) == shown.id
    with page.place(is_asked):
        if is_asked:
            _confirm(shown, in_force)


def _confirm(shown: Version, in_force: Version) -> None:
    body = f"{shown.hash[: tables.HASH_CHARS]} would be in force on every gateway within 3 s."
    page.show(markup.box("info", "Roll back?", body))
    with st.container(horizontal=True, key="policy_rollback_actions"):
        st.button("Yes, roll back", type="primary", on_click=_roll_back, args=(shown, in_force))
        st.button("Cancel", on_click=_ask, args=(None,))


def _ask(version_id: str | None) -> None:
    st.session_state[_ASKED] = version_id


def _roll_back(shown: Version, in_force: Version) -> None:
    st.session_state[_ASKED] = None
    try:
        _admin().roll_back(shown.id, in_force.hash)
    except Refused as error:
        st.session_state[SAID] = ("bad", "Not rolled back", f"{error}.")
        return
    body = "Its text was published again, as a new version: in force on every gateway within 3 s."
    st.session_state[SAID] = ("info", f"Rolled back to {shown.hash[: tables.HASH_CHARS]}", body)
