"""Where a target is, as a fingerprint. Gateways that share a database may give one name to different servers: what
one learnt of a target holds for another only where the place is the same, and 127.0.0.1 is another on every host.
"""

from __future__ import annotations

from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.config.deployment import AnyTarget, EngineTarget, ServerTarget


def address_of(target: AnyTarget) -> str | None:
    """None where only litellm knows."""
    return target.url if isinstance(target, EngineTarget | ServerTarget) else target.base_url


def place_of(target: AnyTarget, host: str) -> str:
    """`host` is the name of the machine that this gateway runs on."""
    url = address_of(target) or ""
    said = (target.kind, url, target.model or "", host if _is_local(url) else "")
    return sha256("\n".join(said).encode()).hexdigest()[:16]


def _is_local(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_loopback or address.is_unspecified
