"""The world that the load is of: what calls there are, where they go, what is told of each choice.

Out: rows of plain values for temporary tables, which `load` joins with numbers. Knows no SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from router.decision import Candidate, Decision, Prediction, Rejection
from router.policy import Timeouts

POLICY_HASH = "5ca1ab1e" * 8
VARIANTS = 40  # decisions of one kind that differ in their figures
SLOTS = 100


@dataclass(frozen=True, slots=True)
class Place:
    """A target: its seconds to the first token, its pace, its prices a million tokens, the share of its failures."""

    name: str
    kind: str
    model: str
    usd_per_hour: float | None
    ttft_s: float
    tokens_per_s: float
    input_usd: float
    output_usd: float
    failing: float


PLACES = (
    Place("engine", "engine", "smollm2-135m-instruct", 0.2, 0.24, 38.0, 0.02, 0.11, 0.002),
    Place("gpu-pool", "vllm", "Qwen/Qwen3-4B", 2.5, 0.19, 95.0, 0.05, 0.31, 0.004),
    Place("deepseek-flash", "openai", "deepseek-v4-flash", None, 0.62, 84.0, 0.14, 0.28, 0.012),
    Place("gpt-mini", "openai", "gpt-5-mini", None, 0.48, 110.0, 0.25, 2.0, 0.006),
    Place("gemini-flash", "litellm", "gemini/gemini-3-flash", None, 0.55, 130.0, 0.3, 2.5, 0.015),
    Place("claude", "litellm", "anthropic/claude-opus-4-8", None, 1.1, 58.0, 5.0, 25.0, 0.008),
)

ROUTES = {
    "short_chat": ("engine", "gpu-pool", "gpt-mini"),
    "classification": ("engine", "deepseek-flash", "gpt-mini"),
    "extraction": ("gpu-pool", "deepseek-flash", "gpt-mini"),
    "summarization": ("deepseek-flash", "gemini-flash", "gpt-mini"),
    "document_qa": ("gemini-flash", "deepseek-flash", "claude"),
    "code_generation": ("deepseek-flash", "claude", "gpt-mini"),
    "agent_loop": ("deepseek-flash", "gpt-mini", "claude"),
    "support": ("claude", "gpt-mini", "gemini-flash"),
    "reasoning": ("claude", "gemini-flash", "deepseek-flash"),
    "general": ("gpt-mini", "gpu-pool", "engine"),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One hundredth of the calls for each of `slots`. Tokens are medians; where `task_calls` is 1, no task is named."""

    slots: int
    workflow: str | None
    caller: str
    endpoint: str
    shape: str
    shape_source: str
    stream: bool
    input_tokens: int
    output_tokens: int
    task_calls: int


_CHAT, _TEXT, _ANSWERS, _MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
KINDS = (
    Kind(12, "helpdesk", "helpdesk", _CHAT, "support", "rule", True, 900, 180, 4),
    Kind(8, "helpdesk", "helpdesk", _CHAT, "short_chat", "inferred", True, 240, 60, 4),
    Kind(20, "coding-agent", "ide", _CHAT, "agent_loop", "structural", True, 5200, 160, 9),
    Kind(8, "coding-agent", "ide", _CHAT, "code_generation", "declared", True, 1800, 520, 9),
    Kind(10, "invoices", "backoffice", _CHAT, "extraction", "structural", False, 2100, 140, 1),
    Kind(10, "triage", "helpdesk", _CHAT, "classification", "rule", False, 420, 6, 1),
    Kind(7, "reports", "analysts", _MESSAGES, "summarization", "inferred", True, 3600, 330, 2),
    Kind(6, "reports", "analysts", _MESSAGES, "document_qa", "structural", True, 9000, 220, 2),
    Kind(5, "tutor", "school", _ANSWERS, "reasoning", "inferred", True, 380, 640, 3),
    Kind(6, "tutor", "school", _ANSWERS, "short_chat", "inferred", True, 160, 90, 3),
    Kind(5, "copywriting", "web", _TEXT, "general", "default", False, 300, 480, 1),
    Kind(3, None, "experiments", _CHAT, "general", "default", True, 210, 150, 1),
)


def places() -> Iterator[dict[str, Any]]:
    for place in PLACES:
        yield asdict(place)


def slots() -> Iterator[dict[str, Any]]:
    """One row a slot, its kind and the targets in the order of trying beside it. `task_slots`: of its workflow."""
    number = 0
    for kind in KINDS:
        together = sum(it.slots for it in KINDS if it.workflow == kind.workflow)
        for _ in range(kind.slots):
            yield asdict(kind) | {"slot": number, "task_slots": together, "route": list(ROUTES[kind.shape])}
            number += 1
    assert number == SLOTS


def decisions() -> Iterator[dict[str, Any]]:
    """For each shape, first choice and variant a decision as the gateway would write it, and what sums say of it."""
    for shape, route in ROUTES.items():
        for explored in (False, True):
            variants = VARIANTS // 8 if explored else VARIANTS
            for variant in range(variants):
                made = _decision(shape, route, explored, variant)
                yield {
                    "shape": shape,
                    "explored": explored,
                    "variant": variant,
                    "variants": variants,
                    "why": "explored" if explored else "slo" if made.candidates[1].slo_misses else "score",
                    "roles": {it.target: it.role for it in made.candidates},
                    "decision": made.as_json(),
                }


def _decision(shape: str, route: tuple[str, ...], explored: bool, variant: int) -> Decision:
    order = (route[1], route[0]) if explored else route[: 2 + variant % 2]
    candidates = tuple(_candidate(name, place, explored, variant) for place, name in enumerate(order))
    rejections = [Rejection("embedder", f"does not serve {_CHAT}")]
    if variant % 10 == 3:
        rejections.append(Rejection(route[2], f"shedding after failures, for {0.5 + variant / 7:.1f} s more"))
    return Decision(
        shape=shape,
        shape_source="inferred",
        objective="ttft" if shape in ("short_chat", "classification") else "completion_p95",
        candidates=candidates,
        rejections=tuple(rejections),
        reason=f"{order[0]} is tried to keep its estimate fresh; {order[1]} scores best"
        if explored
        else f"{order[0]} has the best score, 0.{31 + variant} against 0.{72 + variant} of {order[1]}",
        policy_hash=POLICY_HASH,
        draw=0.5,
        explored=explored,
        expected_output_tokens=100 + 7 * variant,
        timeouts=Timeouts(3.0, 10.0, 120.0),
        max_retries=2,
        shape_confidence=0.9 - variant / 200,
    )


def _candidate(name: str, place: int, explored: bool, variant: int) -> Candidate:
    spread = 1 + variant / 97 + place / 3
    prediction = Prediction(
        ttft_s=0.31271 * spread,
        tpot_s=0.011983 * spread,
        completion_s=2.4137 * spread,
        completion_p95_s=4.9253 * spread,
        cost_usd=0.00021519 * spread,
        success_share=0.99412 / (1 + place / 500),
        in_flight=variant % 7,
        crowding=1 + variant / 50,
        weight=41.237 * spread,
    )
    role = "explore" if explored and place == 0 else "fallback" if place == 2 else "candidate"
    misses = ("ttft_p95_s",) if variant % 4 == 1 and place == 1 else ()
    return Candidate(name, role, None if role == "fallback" else 0.312 * spread, prediction, misses)
