"""`AnswerCache`: whole answers to deterministic calls, by an exact fingerprint, for as long as a policy says.

Only complete answers with status 200 are kept. Equal calls that arrive while the first is on its way wait for it and
share its answer; if it comes to nothing they go their own way. One worker's memory, bounded in bytes; the oldest goes
first. Time is an argument.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

MAX_BYTES = 64 * 1024**2
OVERHEAD_BYTES = 512  # what an entry costs beside its body


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete response body as the client got it, and what it cost."""

    body: bytes
    content_type: str
    cost_nusd: int | None
    until: float
    finish_reason: str | None = None


class AnswerCache:
    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._coming: dict[bytes, asyncio.Future[Answer | None]] = {}

    def find(self, fingerprint: bytes, now: float) -> Answer | None:
        answer = self._answers.get(fingerprint)
        if answer is not None and answer.until <= now:
            self._drop(fingerprint)
            return None
        return answer

    async def wait(self, fingerprint: bytes) -> Answer | None:
        """The answer that another call is getting; None when none is, or when it came to nothing."""
        coming = self._coming.get(fingerprint)
        return None if coming is None else await asyncio.shield(coming)

    def begin(self, fingerprint: bytes) -> bool:
        """Others may now wait for this call's answer. False: one is on its way already."""
        if fingerprint in self._coming:
            return False
        self._coming[fingerprint] = asyncio.get_running_loop().create_future()
        return True

    def end(self, fingerprint: bytes, answer: Answer | None) -> None:
        """After `begin`, in every case: those who wait hear of it, and it is kept."""
        coming = self._coming.pop(fingerprint)
        coming.set_result(answer)
        if answer is not None:
            self._keep(fingerprint, answer)

    def _keep(self, fingerprint: bytes, answer: Answer) -> None:
        size = len(answer.body) + OVERHEAD_BYTES
        if size > self._max_bytes // 8:
            return
        if fingerprint in self._answers:
            self._drop(fingerprint)
        self._answers[fingerprint] = answer
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._answers)))

    def _drop(self, fingerprint: bytes) -> None:
        self._bytes -= len(self._answers.pop(fingerprint).body) + OVERHEAD_BYTES
