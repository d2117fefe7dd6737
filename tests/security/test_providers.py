"""What a provider sends is bounded, whatever it sends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.upstreams import http_response
from tests.gateway.conftest import HELLO, running_gateway
from tests.raw_upstream import Line, framed, head, raw_upstream

LIMIT_BYTES = 1_000_000


@pytest.mark.parametrize(("is_stream", "status"), [(False, 200), (False, 500), (True, 200), (True, 500)])
def test_an_answer_without_end_is_cut_off(
    clean_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stream: bool, status: int
) -> None:
    monkeypatch.setattr(http_response, "MAX_BODY_BYTES", LIMIT_BYTES)

    async def endless(line: Line, _: dict[str, Any]) -> None:
        await line.send(head(status))
        while True:
            await line.send(framed(b": nothing yet\n\n" * 1_000))

    async def test() -> None:
        async with raw_upstream(endless) as target:
            limits = {"a": {"base_url": target.url}}
            policy = "version: 1\ndefaults: {retries: {max: 0}}\n"
            async with running_gateway(clean_database_url, tmp_path, policy, ("a",), limits) as gateway:
                code, _, raw = await gateway.post({**HELLO, "stream": is_stream})
                assert len(raw) < 2 * LIMIT_BYTES
                (attempt,) = (await gateway.exchange())["attempts"]
                assert (code, attempt["result"]) == (200 if is_stream and status == 200 else 502, "cut_off")
                assert "its answer grew past" in attempt["error_message"]

    asyncio.run(test())
