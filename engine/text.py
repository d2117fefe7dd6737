"""Turns a stream of tokens into text that may be shown: whole characters only, nothing past a stop string.

In: one token's bytes at a time. Out: text that no later token can take back. Knows neither tokenizer
(it is given a function) nor engine.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable


class TextStream:
    """The text of one sequence. A possible beginning of a stop string is held back until it is decided."""

    def __init__(
        self, token_bytes: Callable[[int], bytes], stops: tuple[str, ...] = (), num_deaf: int = 0
    ) -> None:
        """`num_deaf` tokens at the beginning complete no stop string; one may begin in their text."""
        self._token_bytes = token_bytes
        self._stops = stops
        self._num_deaf = num_deaf
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._length = 0
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string has been completed; nothing more comes out then."""
        return self._is_stopped

    @property
    def length(self) -> int:
        """Characters decoded so far, shown or not."""
        return self._length

    def push(self, token_id: int) -> str:
        is_deaf = self._num_deaf > 0
        self._num_deaf -= is_deaf
        return self._release(self._decoder.decode(self._token_bytes(token_id)), is_deaf)

    def close(self) -> str:
        """No more tokens: half a character becomes U+FFFD, a begun stop string was none."""
        shown = self._release(self._decoder.decode(b"", final=True), self._num_deaf > 0)
        if not self._is_stopped:
            shown += self._held
            self._held = ""
        return shown

    def _release(self, new: str, is_deaf: bool) -> str:
        if self._is_stopped:
            return ""
        self._length += len(new)
        text = self._held + new
        found = None if is_deaf else first_stop(text, self._stops, len(self._held))
        if found is not None:
            self._is_stopped, self._held = True, ""
            return text[:found]
        keep = len(text) - begun(text, self._stops)
        self._held = text[keep:]
        return text[:keep]


def first_stop(text: str, stops: tuple[str, ...], num_old: int = 0) -> int | None:
    """Where the stop string begins that is completed first, reading on after `num_old` characters."""
    places = [(stop, text.find(stop, max(0, num_old - len(stop) + 1))) for stop in stops]
    ends = [(at + len(stop), at) for stop, at in places if at >= 0]
    return min(ends)[1] if ends else None


def begun(text: str, strings: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins, but does not complete, one of the `strings`."""
    longest = 0
    for string in strings:
        for length in range(min(len(string) - 1, len(text)), longest, -1):
            if text.endswith(string[:length]):
                longest = length
                break
    return longest
