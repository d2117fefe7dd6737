"""API keys as values."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest

from gateway.callers.keys import Key, KeyRing, digest, new_key, shown_prefix

PLAIN = "sg-0123456789012345678901234567890123456789012"
KEY = Key(uuid4(), "app", "sg-0123", "call")
RING = KeyRing([(digest(PLAIN), KEY)])


def test_new_keys_have_256_random_bits_in_url_safe_characters() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"sg-[A-Za-z0-9_-]{43}", key) for key in keys)


def test_digest_is_sha256_in_hex() -> None:
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (f"Bearer {PLAIN}", None),
        (f"bearer  {PLAIN} ", None),
        (None, PLAIN),
        ("Bearer something-else", PLAIN),
        (f"Bearer {PLAIN}", "something-else"),
    ],
)
def test_a_key_is_found_in_either_header(authorization: str | None, x_api_key: str | None) -> None:
    assert RING.find(authorization, x_api_key) == KEY


@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (None, None),
        ("", ""),
        ("Bearer", None),
        ("Bearer ", None),
        (PLAIN, None),
        (f"Basic {PLAIN}", None),
        (f"Bearer {PLAIN}x", None),
        (f"Bearer {digest(PLAIN)}", digest(PLAIN)),
        ("Bearer \ud800", "\xff"),
    ],
)
def test_nothing_else_is_a_key(authorization: str | None, x_api_key: str | None) -> None:
    assert RING.find(authorization, x_api_key) is None


def test_an_empty_ring_finds_nothing() -> None:
    assert KeyRing().find(f"Bearer {PLAIN}") is None
    assert len(RING) == 1


@pytest.mark.parametrize(("key", "prefix"), [(PLAIN, "sg-0123"), ("12345678", "12"), ("a" * 20, "aaaaaa")])
def test_the_shown_prefix_gives_little_away(key: str, prefix: str) -> None:
    assert shown_prefix(key) == prefix


def test_expired_keys_leave_the_ring_at_their_second() -> None:
    lasting = Key(uuid4(), "lasting", "sg-4567", "call")
    brief = Key(uuid4(), "brief", "sg-89ab", "call", expires_at=100.0)
    ring = KeyRing([(digest("lasting-key"), lasting), (digest("brief-key"), brief)])
    assert ring.in_force(99.9).find(None, "brief-key") == brief
    assert ring.in_force(100.0).find(None, "brief-key") is None
    assert ring.in_force(1e12).find(None, "lasting-key") == lasting
