"""A running gateway, as tests of the gateway have it."""

from tests.gateway.conftest import quick_watches, with_gateway

__all__ = ["quick_watches", "with_gateway"]
