"""Reads typed values out of a JSON body. Every complaint names the parameter and says what is allowed.

In: the parsed body. Out: values, or `InvalidRequest` with OpenAI's codes. `null` means absent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from engine.errors import InvalidRequest

DEEPEST = 100


class Fields:
    """One JSON object whose values are asked for by name and type."""

    def __init__(self, body: dict[str, Any], path: str = "") -> None:
        self._body = body
        self._path = path

    def raw(self, name: str) -> Any:
        return self._body.get(name)

    def param(self, name: str) -> str:
        return f"{self._path}{name}"

    def text(self, name: str) -> str | None:
        value = self.raw(name)
        if value is not None and not isinstance(value, str):
            raise self.wrong_type(name, "a string")
        return value

    def required_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise self.missing(name)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong_type(name, "true or false")
        return value

    def integer(self, name: str, least: int, most: int | None = None) -> int | None:
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong_type(name, "an integer")
        self._check_range(name, value, least, most)
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong_type(name, "a number")
        self._check_range(name, value, least, most)
        return float(value)

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong_type(name, "an object")
        return value

    def object(self, name: str) -> Fields:
        """The fields of an object; where it is absent, one without any."""
        return Fields(self.mapping(name), f"{self.param(name)}.")

    def objects(self, name: str, what: str) -> list[Fields]:
        """The fields of each object of an array of `what`; none where it is absent."""
        values = self.raw(name)
        if values is None:
            return []
        if not isinstance(values, list):
            raise self.wrong_type(name, f"an array of {what}")
        items: list[Fields] = []
        for index, value in enumerate(values):
            param = f"{self.param(name)}[{index}]"
            if not isinstance(value, dict):
                raise InvalidRequest(
                    f"Invalid type for '{param}': expected an object, but got {_json_type(value)}.",
                    param=param,
                    code="invalid_type",
                )
            items.append(Fields(value, f"{param}."))
        return items

    def _check_range(self, name: str, value: float, least: float, most: float | None) -> None:
        if value < least:
            raise self.invalid(name, f"{value} is below the minimum, {least}.")
        if most is not None and value > most:
            raise self.invalid(name, f"{value} is above the maximum, {most}.")

    def missing(self, name: str) -> InvalidRequest:
        param = self.param(name)
        return InvalidRequest(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )

    def wrong_type(self, name: str, expected: str) -> InvalidRequest:
        param, got = self.param(name), _json_type(self.raw(name))
        return InvalidRequest(
            f"Invalid type for '{param}': expected {expected}, but got {got}.",
            param=param,
            code="invalid_type",
        )

    def invalid(self, name: str, reason: str) -> InvalidRequest:
        param = self.param(name)
        return InvalidRequest(f"Invalid value for '{param}': {reason}", param=param)

    def unsupported(self, name: str, advice: str) -> InvalidRequest:
        param = self.param(name)
        return InvalidRequest(
            f"'{param}' is not supported by this engine: {advice}", param=param, code="unsupported_parameter"
        )


def is_too_deep(value: Any) -> bool:
    """Whether arrays and objects lie within each other more than `DEEPEST` times; recursion over them may fail."""
    level = [value]
    for _ in range(DEEPEST):
        level = [part for outer in level for part in _parts(outer) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    parts: Iterable[Any] = value.values() if isinstance(value, dict) else value
    return parts


def _json_type(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null" if value is None else "an object")
