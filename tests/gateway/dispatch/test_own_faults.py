"""An error of the gateway's own: its client, its log and its row know it by one name."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from gateway.dispatch.serve import Service
from tests.gateway.conftest import HELLO, Gateway, Run


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_we_fail_on_is_told_by_its_id(
    with_gateway: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    async def fails(*_: object) -> None:
        raise ZeroDivisionError("no shares to divide by")

    async def test(gateway: Gateway) -> None:
        monkeypatch.setattr(Service, "run", fails)
        status, headers, body = await gateway.post({**HELLO, "stream": stream})
        name = headers["x-request-id"]
        told = orjson.loads(body)["error"]
        assert (status, told["code"]) == (500, "internal_error")
        assert name in told["message"]
        assert "shares" not in told["message"]
        row = (await gateway.exchange())["exchange"]
        assert (row["status"], row["error_code"]) == (500, "internal_error")
        assert name == f"req_{row['id'].replace('-', '')}"
        (record,) = (one for one in caplog.records if one.exc_info)
        assert name in record.getMessage()

    with_gateway("version: 1\n")(test)
