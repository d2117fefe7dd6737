"""`Query`: all the router may know of a request. Built by the gateway's surfaces, read by `decide`; holds no text.

In: counts, flags and names taken from one client call. Out: a frozen value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from router.inference import Inferred


@dataclass(slots=True)
class Query:
    """One client call, as far as routing goes. Header names are lower case; only str values of metadata count."""

    endpoint: str  # e.g. /v1/chat/completions
    model: str  # as the app wrote it
    caller: str = ""
    stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    workflow: str | None = None
    task_id: str | None = None
    role: str | None = None  # in its task: draft | final
    last_target: str | None = None  # where the task's previous call went
    target: str | None = None  # the one that holds what the call refers to: no other can serve it
    declared_shape: str | None = None  # header or metadata; `auto/<shape>` is read from `model`
    input_tokens: int = 0  # an estimate: text bytes ÷ 4, plus 4 a message
    max_output_tokens: int | None = None
    temperature: float | None = None
    message_count: int = 0
    has_tools: bool = False
    has_tool_messages: bool = False
    has_images: bool = False
    wants_json: bool = False
    infer_shape: Callable[[], Inferred] | None = field(
        default=None, repr=False, compare=False
    )  # from its text
    slo_ttft_s: float | None = None  # the caller's hints: they tighten a policy, never loosen it
    slo_tpot_s: float | None = None
    deadline_s: float | None = None
