"""Hard limits: may this target serve this call at all? A `None` says yes, else the reason in words.

In: query, target, its health, the time. Out: a reason or None. Preference is not decided here.
"""

from __future__ import annotations

from router.catalog import Target
from router.fleet import Health
from router.query import Query

ENGINE_GONE_S = 1.0  # an engine that has not answered its state for this long is not asked


def inability(query: Query, target: Target, health: Health) -> str | None:
    """What the target cannot do, whatever its state."""
    if target.disabled_reason:
        return f"disabled: {target.disabled_reason}"
    if query.endpoint not in target.endpoints:
        return f"does not serve {query.endpoint}"
    if not (target.has_tools and target.has_images and target.has_json) and (
        lacking := _lacking(query, target)
    ):
        return f"cannot do {' or '.join(lacking)}"
    window = target.context_tokens
    if window is None and health.engine is not None:
        window = health.engine.max_context_tokens
    if window is not None and query.input_tokens > window:
        return f"about {query.input_tokens} input tokens do not fit its context of {window}"
    return None


def _lacking(query: Query, target: Target) -> list[str]:
    needs = (
        ("tools", query.has_tools or query.has_tool_messages, target.has_tools),
        ("images", query.has_images, target.has_images),
        ("JSON output", query.wants_json, target.has_json),
    )
    return [name for name, is_needed, has in needs if is_needed and not has]


def unwell(health: Health, now: float) -> str | None:
    """Why the target gets no traffic just now."""
    return absent(health, now) or ejected(health, now) or full(health, now)


def absent(health: Health, now: float) -> str | None:
    """It says itself that it takes none, or does not answer."""
    if health.engine and health.engine.draining:
        return "draining"
    gone = health.unreachable_since_s
    if gone is not None and now - gone >= ENGINE_GONE_S:
        return f"engine has not answered for {now - gone:.0f} s"
    return None


def full(health: Health, now: float) -> str | None:
    """It has shown how many calls at a time it takes."""
    if health.room.is_full(health.in_flight, now):
        return f"full: it refused more than {health.room.limit:g} calls at a time"
    return None


def ejected(health: Health, now: float) -> str | None:
    """It failed; a probe is let through one at a time."""
    state = health.breaker.state(now)
    if state == "shedding":
        return f"shedding after failures, for {health.breaker.until_s - now:.1f} s more"
    if state == "probing" and health.in_flight > 0:
        return "probing: another call is testing it"
    return None
