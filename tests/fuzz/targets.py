"""All that is fuzzed."""

from __future__ import annotations

from tests.fuzz import answers, bodies, configs, metrics, streams
from tests.fuzz.base import FuzzTarget

TARGETS: tuple[FuzzTarget, ...] = (
    *streams.TARGETS,
    *bodies.TARGETS,
    *answers.TARGETS,
    *configs.TARGETS,
    *metrics.TARGETS,
)
