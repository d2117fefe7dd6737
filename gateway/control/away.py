"""`Away`: says once that something cannot be had for now, and once that it is back, however often it is tried."""

from __future__ import annotations

import logging


class Away:
    def __init__(self, log: logging.Logger, gone: str, back: str) -> None:
        """`gone` has one `%s`, for the kind of error."""
        self._log, self._gone, self._back = log, gone, back
        self._is_away = False

    def failed(self, error: Exception) -> None:
        if not self._is_away:
            self._log.warning(self._gone, type(error).__name__)
        self._is_away = True

    def worked(self) -> None:
        if self._is_away:
            self._log.info(self._back)
        self._is_away = False
