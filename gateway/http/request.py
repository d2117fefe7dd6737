"""A request of the data plane once it is whole, and the limits that clients have to keep to."""

from __future__ import annotations

import resource
from dataclasses import dataclass

OPEN_FILES = 65_536  # that a worker asks for
OWN_FILES = 200  # of these for its log, spool, database and libraries


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request, its answer, and of how many connections a worker keeps."""

    body_bytes: int = 20 * 1024 * 1024
    strangers_bytes: int = 64 * 1024  # of a body whose key was not looked at yet
    app_bytes: int = 1024 * 1024  # of a body for the app, which reads it before it asks for a key
    head_bytes: int = 64 * 1024
    head_s: float = 10.0  # from its first byte to the end of its headers
    body_idle_s: float = 30.0  # between two pieces of its body
    bytes_per_s: int = 1_000  # that a body comes in with at least, after the first `body_idle_s`
    unread_s: float = 60.0  # in which a client takes this much a second of what waits for it, or all
    connections: int = 10_000


@dataclass(slots=True)
class Request:
    """A whole request. `headers`: names in lower case; of a repeated one the last value."""

    path: str
    query: bytes
    headers: dict[str, str]
    body: bytes
    arrived: float  # when the headers were complete, on the monotonic clock


def most_connections() -> int:
    """For how many clients a worker has descriptors, each with a connection to a target; first it is allowed more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return max(1, min(Limits().connections, (files - OWN_FILES) // 2))
