from __future__ import annotations

from collections.abc import Callable

import orjson

from tests.gateway.callers.test_limited_calls import caller
from tests.gateway.conftest import HELLO, Gateway, Run

COUNT = "/v1/messages/count_tokens"


def test_a_count_is_a_call_of_the_minute_and_takes_no_tokens(with_gateway: Callable[..., Run]) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, rpm=3, tpm=100)
        long = {**HELLO, "messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 4000}
        for _ in range(2):
            assert (await gateway.post(long, COUNT, **app))[0] == 200
        status, headers, _ = await gateway.post({**HELLO, "max_tokens": 5}, **app)
        assert (status, headers["x-ratelimit-remaining-requests"]) == (200, "0")
        assert int(headers["x-ratelimit-remaining-tokens"]) > 80
        status, _, raw = await gateway.post(long, COUNT, **app)
        assert (status, orjson.loads(raw)["error"]["type"]) == (429, "rate_limit_error")

    with_gateway()(test)
