"""Task shapes: their names, in order of precedence, and how the shape of a call is found.

A shape is declared by the caller, else set by a rule of the policy, else read from the structure of the call
(endpoint, tools, response format, lengths), else inferred from its text; a call that fits none of these is `general`.
In: a `Query`, the shape its model name declares, the policy's rules. Out: a `Finding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from router.policy import Rule
from router.query import Query

SHAPES: tuple[str, ...] = (
    "embedding",
    "agent_loop",
    "extraction",
    "classification",
    "summarization",
    "document_qa",
    "code_generation",
    "support",
    "reasoning",
    "short_chat",
    "general",
)
Source = Literal["declared", "rule", "structural", "inferred", "default"]

TINY_OUTPUT_TOKENS = 16  # room for a label, a yes/no or a score, not for a sentence
LONG_INPUT_TOKENS = 4_000  # about 3,000 words: nobody types that, it is a document
SHORT_INPUT_TOKENS = 200
SHORT_OUTPUT_TOKENS = 256

# Output lengths assumed until a target's own traffic says otherwise; only the order of magnitude matters.
EXPECTED_OUTPUT_TOKENS = {
    "embedding": 0,
    "agent_loop": 150,
    "extraction": 120,
    "classification": 4,
    "summarization": 200,
    "document_qa": 200,
    "code_generation": 600,
    "support": 250,
    "reasoning": 500,
    "short_chat": 80,
    "general": 300,
}


@dataclass(slots=True)
class Finding:
    """A shape, what it was found from, and how sure that is."""

    shape: str
    source: Source
    confidence: float | None = None  # that an inferred shape is right, 0..1


def find_shape(query: Query, named_shape: str | None, rules: tuple[Rule, ...]) -> Finding:
    """Declared (header or metadata, then model name) beats rules, rules beat structure, structure beats the text."""
    declared = query.declared_shape or named_shape
    if declared:
        return Finding(declared, "declared")
    for rule in rules:
        if rule.matches(query):
            return Finding(rule.shape, "rule")
    structural = _from_structure(query)
    if structural:
        return Finding(structural, "structural")
    if query.infer_shape is None:
        return Finding("general", "default")
    inferred = query.infer_shape()
    return Finding(inferred.shape, "inferred", inferred.confidence)


def _from_structure(query: Query) -> str | None:
    if query.endpoint == "/v1/embeddings":
        return "embedding"
    if query.has_tools or query.has_tool_messages:
        return "agent_loop"
    if query.wants_json:
        return "extraction"
    limit = query.max_output_tokens
    if limit is not None and limit <= TINY_OUTPUT_TOKENS:
        return "classification"
    if query.input_tokens >= LONG_INPUT_TOKENS:
        return "document_qa"
    if limit is not None and limit <= SHORT_OUTPUT_TOKENS and query.input_tokens <= SHORT_INPUT_TOKENS:
        return "short_chat"
    return None
