"""A mock upstream for tests that call it; without a C compiler they are skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.bench.gateway.programs import NoProgram, program
from gateway.bench.gateway.traffic import Mock, mock

Run = Callable[[Callable[[Mock], Awaitable[Any]]], Any]


@pytest.fixture
def built() -> None:
    try:
        program("mock")
        program("load")
    except NoProgram as reason:
        pytest.skip(str(reason))


@pytest.fixture
def with_mock(built: None, tmp_path: Path) -> Run:
    """`with_mock(test)` runs the coroutine function `test(mock)` and returns what it returns."""

    def run(test: Callable[[Mock], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            async with aiohttp.ClientSession() as session, mock(session, tmp_path) as upstream:
                return await test(upstream)

        return asyncio.run(whole())

    return run
