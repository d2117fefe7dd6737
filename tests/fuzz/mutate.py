"""Spoiled versions of well-formed inputs: JSON values and YAML trees node by node, texts and bytes piece by piece.

In: a `Random`, which alone decides, and something well-formed. Out: mostly something nearly as well-formed. Knows
nothing of what the inputs mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from random import Random
from typing import Any

import orjson
import yaml

LEAVES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    -(2**63),
    2**64 - 1,
    0.5,
    -0.0,
    1e308,
    5e-324,
    "",
    " ",
    "auto",
    "text",
    "user",
    "null",
    "1",
    "\0",
    "\U0001f600",
    "é" * 300,
    "9" * 400,
    "data: [DONE]\n\n",
    "${A}",
    "../../etc",
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    {"type": "text"},
)
PIECES = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\r\r",
    b"data",
    b"data:",
    b"data: ",
    b": ",
    b"[DONE]",
    b'"usage":null',
    b'"',
    b"\\u00",
    b"{",
    b"}",
    b"[",
    b"]",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!python/object:os.system ",
    b"---\n",
    b"\t",
    b"1e999",
    b"NaN",
    b"+Inf",
    b"#",
)
_DEEP = (1, 1, 2, 2, 3, 3, 5, 260, 1100)


def tree(chance: Random, value: Any, other: Any, times: int = 3) -> Any:
    """`value`, which is changed, with up to so many of its nodes replaced, left out, doubled, moved or wrapped; what
    comes in may be a piece of `other`."""
    for _ in range(chance.randint(1, times)):
        places = _places(value)
        if not places:
            return value
        container, key = chance.choice(places)
        how = chance.randrange(8)
        if how == 0:
            del container[key]
        elif how <= 2:
            container[key] = _leaf(chance)
        elif how == 3:
            container[key] = _wrapped(chance, container[key])
        elif how == 4 and (theirs := _places(other)):
            source, at = chance.choice(theirs)
            container[key] = deepcopy(
                source[at]
            )  # or what changes here would change there, and might hold itself
        elif how == 5 and isinstance(container, list):
            container.insert(key, container[key])
        elif how == 5:
            container[chance.choice((f"{key}_", key.upper(), key[1:], "x"))] = container[key]
        elif how == 6:
            target, at = chance.choice(places)
            if _reaches(target, container[key]) or not _holds(target, at):
                continue
            target[at] = container[key]
        else:
            container[key] = _of_another_type(chance, container[key])
    return value


def raw(chance: Random, data: bytes, times: int = 4) -> bytes:
    """With up to so many pieces cut out, doubled, moved, put in or changed bit by bit."""
    for _ in range(chance.randint(1, times)):
        at = chance.randint(0, len(data))
        end = min(len(data), at + int(chance.expovariate(1 / 8)))
        how = chance.randrange(7)
        if how == 0:
            data = data[:at] + data[end:]
        elif how <= 2:
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif how == 3:
            data = data[:end] + data[at:end] * chance.choice((1, 2, 40)) + data[end:]
        elif how == 4:
            data = data[:at] + chance.randbytes(chance.randint(1, 6)) + data[end:]
        elif how == 5 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        else:
            data = data[:at]
    return data


def cuts(chance: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces: some of one byte, some long, some empty."""
    mean = chance.choice((1, 3, 17, 200))
    pieces, at = [], 0
    while at < len(data):
        end = at + max(0 if chance.random() < 0.1 else 1, int(chance.expovariate(1 / mean)))
        pieces.append(data[at:end])
        at = end
    return pieces


def json_of(value: Any) -> bytes:
    """However deeply it is nested."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return b"".join(_tokens(value))


def yaml_of(value: Any) -> str:
    """As JSON, which is YAML too, where it is nested more deeply than a dumper takes."""
    try:
        return str(yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True))
    except RecursionError:
        return b"".join(_tokens(value)).decode()


def _tokens(value: Any) -> Iterator[bytes]:
    waiting: list[Any] = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, bytes):
            yield one
        elif isinstance(one, dict):
            inside = [part for key, inner in one.items() for part in (b",", orjson.dumps(key) + b":", inner)]
            waiting += reversed([b"{", *inside[1:], b"}"])
        elif isinstance(one, list):
            inside = [part for inner in one for part in (b",", inner)]
            waiting += reversed([b"[", *inside[1:], b"]"])
        else:
            yield orjson.dumps(one)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            found += [(one, key) for key in one]
            waiting += one.values()
        elif isinstance(one, list):
            found += [(one, key) for key in range(len(one))]
            waiting += one
    return found


def _leaf(chance: Random) -> Any:
    leaf = chance.choice(LEAVES)
    return leaf.copy() if isinstance(leaf, list | dict) else leaf


def _wrapped(chance: Random, value: Any) -> Any:
    for _ in range(chance.choice(_DEEP)):
        value = [value] if chance.random() < 0.5 else {"x": value}
    return value


def _holds(container: Any, key: Any) -> bool:
    return key in container if isinstance(container, dict) else key < len(container)


def _reaches(container: Any, value: Any) -> bool:
    """Whether `container` is `value` or inside it, so that moving it there would close a circle."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if one is container:
            return True
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
    return False


def _of_another_type(chance: Random, value: Any) -> Any:
    as_text = "a collection" if isinstance(value, dict | list) else str(value)[:100]
    return chance.choice((as_text, [value], {"value": value}, bool(value), len(as_text), None))
