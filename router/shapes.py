"""Task shapes: their names, in order of precedence, and how a query's shape is found.

A shape is declared by the caller, else set by a rule, else read from the structure of the call; a call that
none of these fits is `general`. Pure: reads a `Query` and a policy's rules, touches nothing else.
"""

from __future__ import annotations

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
