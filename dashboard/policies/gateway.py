"""What the gateway is asked of policies: checked, published, rolled back, explained, replayed.

In: the gateway's address and a key of scope admin. Out: the JSON of its admin API, or `Refused` with its words.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

ADDRESSES = (
    "SPARKGATE_ADMIN_URL",
    "SPARKGATE_URL",
)  # of the gateway, as reached from here; the first that is set
DEFAULT_ADDRESS = "http://127.0.0.1:8080"
_WITHIN_S = 10.0
_REPLAY_WITHIN_S = 75.0  # the gateway gives up after a minute
CONFLICT = "policy_conflict"


class Refused(Exception):
    """No, or no answer. `code` is the API's, None when there was none."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to correct; `line` counts from 1, None = the text as a whole."""

    line: int | None
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway, as one admin may ask it."""

    key: str = field(repr=False)

    def check(self, text: str) -> list[Mistake]:
        found = self._ask("POST", "/check", {"yaml": text})
        return [Mistake(it["line"], it["key"], it["message"]) for it in found["mistakes"]]

    def publish(self, text: str, based_on: str) -> str:
        """The hash of the new version. Raises Refused, with code CONFLICT where another one than that is in force."""
        return str(self._ask("PUT", "", {"yaml": text, "based_on": based_on})["hash"])

    def roll_back(self, version_id: str, based_on: str) -> str:
        """The same with the text of an old version."""
        return str(self._ask("POST", "/rollback", {"version": version_id, "based_on": based_on})["hash"])

    def explain(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._ask("POST", "/explain", body)

    def replay(self, text: str, since_s: float) -> dict[str, Any]:
        return self._ask("POST", "/replay", {"yaml": text, "since_s": since_s}, _REPLAY_WITHIN_S)

    def _ask(
        self, method: str, path: str, body: dict[str, Any], within_s: float = _WITHIN_S
    ) -> dict[str, Any]:
        address = _address()
        try:
            answer = _client().request(
                method,
                f"{address}/admin/policy{path}",
                content=json.dumps(body),  # the gateway, unlike httpx, says what is wrong with NaN or \ud800
                headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
                timeout=within_s,
            )
        except httpx.HTTPError as error:
            raise Refused(
                f"The gateway at {address} does not answer: {error or type(error).__name__}"
            ) from None
        try:
            value = answer.json()
            if answer.is_success:
                return dict(value)
            raise Refused(str(value["error"]["message"]), value["error"]["code"])
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{address} answered {answer.status_code}, and not as a gateway does") from None


def _address() -> str:
    return next(filter(None, map(os.environ.get, ADDRESSES)), DEFAULT_ADDRESS).rstrip("/")


@cache
def _client() -> httpx.Client:
    return httpx.Client(trust_env=False)
