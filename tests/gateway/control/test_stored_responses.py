"""Responses that targets keep, asked for by id: with OpenAI's own client, through several workers, across restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import text

from gateway.assemble import Files
from gateway.callers.store import create_key
from gateway.config.deployment import Deployment
from gateway.ledger.database import create_async_engine, create_engine
from gateway.ledger.drain import Drain
from tests.conftest import PostgresServer
from tests.gateway.conftest import eventually
from tests.gateway.control.response_store import ResponseStore, response_store
from tests.gateway.workers import draining, worker
from tests.openapi import DOCUMENT, errors_of

RESPONSES = "/v1/responses"
MINE, THEIRS, ADMIN = "sg-key-of-mine", "sg-key-of-theirs", "sg-key-of-admin"
POLICY = "version: 1\ndefaults: {retries: {max: 0}, explore: 0, candidates: [a]}\n"


@dataclass
class Place:
    """Two targets that keep responses and one that does not, and what workers need to serve them."""

    a: ResponseStore
    b: ResponseStore
    files: Files
    session: aiohttp.ClientSession

    async def ask(
        self, method: str, url: str, key: str = MINE, **body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers in lower case, body)"""
        headers = {"Authorization": f"Bearer {key}"}
        given = {"json": {"model": "auto", "input": "hi", **body}} if url.endswith(RESPONSES) else {}
        async with self.session.request(method, url, headers=headers, **given) as response:  # type: ignore[arg-type]
            return response.status, {k.lower(): v for k, v in response.headers.items()}, await response.read()

    async def create(self, url: str, key: str = MINE, **body: Any) -> str:
        """The id of a new response."""
        status, _, raw = await self.ask("POST", url + RESPONSES, key, **body)
        assert status == 200, raw
        return str(json.loads(raw)["id"])


@asynccontextmanager
async def place(database_url: str, data_dir: Path, policy: str = POLICY) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(response_store()) for _ in range(2)]
        urls = zip(("a", "b", "chat"), (stores[0].url, stores[1].url, stores[0].url), strict=True)
        targets = [
            {
                "kind": "openai",
                "name": name,
                "base_url": url,
                "model": f"{name}-1",
                "api_key": f"key-of-{name}",
            }
            | ({} if name == "chat" else {"endpoints": [RESPONSES]})
            for name, url in urls
        ]
        given = {"engine": {"enabled": False}, "targets": targets}
        (data_dir / "policy.yaml").write_text(policy)
        database = create_async_engine(database_url)
        async with database.begin() as connection:
            await create_key(connection, "mine", "call", MINE)
            await create_key(connection, "theirs", "call", THEIRS)
            await create_key(connection, "boss", "admin", ADMIN)
        await database.dispose()
        deployed = Deployment.model_validate(given)
        files = Files(deployed, {}, data_dir / "policy.yaml", data_dir, database_url)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Place(stores[0], stores[1], files, session)


Test = Callable[[Place], Awaitable[None]]


@pytest.fixture
def here(clean_database_url: str, tmp_path: Path) -> Callable[..., None]:
    def run(test: Test, policy: str = POLICY) -> None:
        async def whole() -> None:
            async with place(clean_database_url, tmp_path, policy) as made:
                await test(made)

        asyncio.run(whole())

    return run


def error_of(raw: bytes) -> dict[str, Any]:
    value = json.loads(raw)
    if DOCUMENT is not None and DOCUMENT.is_file():
        assert errors_of("ErrorResponse", value) == []
    return dict(value["error"])


def check(schema: str, *raws: bytes) -> None:
    """As OpenAI publishes them, where its document is at hand."""
    for raw in raws if DOCUMENT is not None and DOCUMENT.is_file() else ():
        assert errors_of(schema, json.loads(raw)) == []


def test_openais_client_on_a_response_of_its_own(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with (
            worker(place.files) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=MINE, max_retries=0, http_client=http) as client,
        ):
            made = await client.responses.create(model="b", input="hi", background=True)
            found = await client.responses.retrieve(made.id)
            assert (found.id, found.status, found.output_text) == (made.id, "queued", "Hello")
            (item,) = (await client.responses.input_items.list(made.id, limit=5)).data
            assert item.to_dict()["content"] == [{"type": "input_text", "text": "hi"}]
            resumed = await client.responses.retrieve(made.id, stream=True, starting_after=0)
            kinds = [(event.sequence_number, event.type) async for event in resumed]
            assert kinds == [(1, "response.in_progress"), (2, "response.completed")]
            assert (await client.responses.cancel(made.id)).status == "cancelled"
            await client.responses.delete(made.id)
            with pytest.raises(openai.NotFoundError, match="not found"):
                await client.responses.retrieve(made.id)
        assert [
            (each.method, each.path_qs.removeprefix("/v1/responses/" + made.id)) for each in place.b.asked
        ] == [
            ("POST", "/v1/responses"),
            ("GET", ""),
            ("GET", "/input_items?limit=5"),
            ("GET", "?starting_after=0&stream=true"),
            ("POST", "/cancel"),
            ("DELETE", ""),
            ("GET", ""),
        ]
        assert {each.headers["Authorization"] for each in place.b.asked} == {"Bearer key-of-b"}
        assert place.a.asked == []

    here(test)


def test_answers_are_the_targets_own_bytes(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        async with worker(place.files) as url:
            one = f"{url}{RESPONSES}/{await place.create(url)}"
            for method, path, schema in (
                ("GET", one, "Response"),
                ("GET", f"{one}/input_items", "ResponseItemList"),
                ("POST", f"{one}/cancel", "Response"),
                ("DELETE", one, None),
            ):
                status, headers, raw = await place.ask(method, path)
                assert (status, raw) == (200, place.a.sent[-1])
                assert (headers["x-sparkgate-target"], headers["x-request-id"]) == ("a", "req-of-store")
                if schema is not None:
                    check(schema, raw)
            status, _, raw = await place.ask("GET", one)
            assert (status, raw, error_of(raw)["code"]) == (404, place.a.sent[-1], None)
            other = f"{url}{RESPONSES}/{await place.create(url)}"
            place.a.sent.clear()
            _, headers, raw = await place.ask("GET", other + "?stream=true")
            assert (headers["content-type"], raw) == (
                "text/event-stream; charset=utf-8",
                b"".join(place.a.sent),
            )

            assert (await place.ask("GET", other, "sg-nobody"))[0] == 401
            records = list(place.files.data_dir.glob("spool/*"))
            assert sum(path.read_bytes().count(b'"kind":"exchange"') for path in records) == 2
            _, _, shown = await place.ask("GET", f"{url}/metrics")
            counts = [
                line for line in shown.splitlines() if line.startswith(b"sparkgate_stored_responses_total")
            ]
            assert sorted(counts) == [
                b'sparkgate_stored_responses_total{operation="cancel",status="200",target="a"} 1.0',
                b'sparkgate_stored_responses_total{operation="delete",status="200",target="a"} 1.0',
                b'sparkgate_stored_responses_total{operation="input_items",status="200",target="a"} 1.0',
                b'sparkgate_stored_responses_total{operation="retrieve",status="200",target="a"} 2.0',
                b'sparkgate_stored_responses_total{operation="retrieve",status="404",target="a"} 1.0',
            ]

    here(test)


def test_every_worker_knows_a_response_at_once_and_after_a_restart(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        with draining(place.files):
            async with worker(place.files, 0) as first, worker(place.files, 1) as second:
                made = await place.create(first, model="b")
                status, headers, _ = await place.ask("GET", f"{second}{RESPONSES}/{made}")
                assert (status, headers["x-sparkgate-target"]) == (200, "b")
                _, _, stream = await place.ask("POST", first + RESPONSES, model="b", stream=True)
                later = str(json.loads(stream.split(b"data: ", 2)[1].split(b"\n", 1)[0])["response"]["id"])
                went_on = await place.ask("POST", second + RESPONSES, previous_response_id=later)
                assert (went_on[0], went_on[1]["x-sparkgate-target"]) == (200, "b")
                newest = str(json.loads(went_on[2])["id"])
            async with worker(place.files) as again:
                for response_id in (made, later, newest):
                    status, headers, _ = await place.ask("GET", f"{again}{RESPONSES}/{response_id}")
                    assert (status, headers["x-sparkgate-target"]) == (200, "b")
        assert place.a.asked == []

    here(test)


def test_a_response_is_its_callers_alone(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        with draining(place.files):
            async with worker(place.files, 0) as first, worker(place.files, 1) as second:
                made = await place.create(first)
                assert (await place.ask("GET", f"{second}{RESPONSES}/{made}"))[0] == 200
                asked = len(place.a.asked) + len(place.b.asked)
                for url in (first, second):
                    for key in (THEIRS, ADMIN):
                        refused = [
                            await place.ask("GET", f"{url}{RESPONSES}/{made}", key),
                            await place.ask("GET", f"{url}{RESPONSES}/{made}?stream=true", key),
                            await place.ask("DELETE", f"{url}{RESPONSES}/{made}", key),
                            await place.ask("POST", f"{url}{RESPONSES}/{made}/cancel", key),
                            await place.ask("GET", f"{url}{RESPONSES}/{made}/input_items", key),
                        ]
                        said = [(status, error_of(raw)["code"]) for status, _, raw in refused]
                        assert said == [(404, "response_not_found")] * 5
                        status, _, raw = await place.ask(
                            "POST", url + RESPONSES, key, previous_response_id=made
                        )
                        error = error_of(raw)
                        assert (status, error["code"]) == (404, "previous_response_not_found")
                        assert error["param"] == "previous_response_id"
                assert len(place.a.asked) + len(place.b.asked) == asked
                assert made in place.a.kept

    here(test)


def test_ids_that_nobody_made_are_not_found_and_no_target_is_asked(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        with draining(place.files):
            async with worker(place.files) as url:
                unstored = await place.create(url, store=False)
                odd = ("..%2Fresponses", "%00", "-", "x" * 600, "resp_%C3%A9", "resp_1")
                asked = [place.ask("GET", f"{url}{RESPONSES}/{each}") for each in (*odd, unstored)]
                asked += [
                    place.ask("POST", url + RESPONSES, previous_response_id=i) for i in ("\0", "resp_1")
                ]
                said = await asyncio.gather(*asked)
                assert [status for status, _, _ in said] == [404] * 9
                assert all(error_of(raw)["type"] == "invalid_request_error" for _, _, raw in said)
        assert len(place.a.asked) == 1

    here(test)


def test_without_its_database_the_gateway_says_that_it_cannot_tell(
    here: Callable[..., None], postgres: PostgresServer
) -> None:
    async def test(place: Place) -> None:
        async with worker(place.files) as url:
            made = await place.create(url)
            postgres.drop(place.files.database_url)
            said = [
                await place.ask("GET", f"{url}{RESPONSES}/resp_1"),
                await place.ask("POST", url + RESPONSES, previous_response_id="resp_1"),
            ]
            for status, headers, raw in said:
                assert (status, headers["retry-after"]) == (503, "1")
                assert error_of(raw)["code"] == "database_unavailable"
            assert (await place.ask("GET", f"{url}{RESPONSES}/{made}"))[0] == 200  # it remembers this one
            await place.create(url, previous_response_id=made)

    here(test)


def test_while_records_are_on_their_way_nothing_is_called_unknown(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        async with worker(place.files, 0) as first, worker(place.files, 1) as second:
            made = await place.create(first)
            status, headers, raw = await place.ask("GET", f"{second}{RESPONSES}/{made}")
            assert (status, headers["retry-after"]) == (503, "1")
            assert "not all records are in the database yet" in error_of(raw)["message"]
            with draining(place.files):
                assert (await place.ask("GET", f"{second}{RESPONSES}/{made}"))[0] == 200

    here(test)


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [(401, 502, "upstream_failed"), (0, 502, "upstream_failed"), (429, 429, None), (500, 500, None)],
)
def test_trouble_of_the_target(
    here: Callable[..., None], trouble: int, status: int, code: str | None
) -> None:
    """Its own words, except about the gateway's key; no other target is asked."""

    async def test(place: Place) -> None:
        async with worker(place.files) as url:
            made = await place.create(url)
            place.a.trouble = trouble
            answer = await place.ask("GET", f"{url}{RESPONSES}/{made}")
            assert (answer[0], error_of(answer[2])["code"]) == (status, code)
            assert (b"key-of-a" in answer[2]) == (code is None)
            assert place.b.asked == []

    here(test)


def test_deadlines_and_ends_of_streams(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        async with worker(place.files) as url:
            one = f"{url}{RESPONSES}/{await place.create(url)}"
            place.a.pause_s = 5.0
            status, _, raw = await place.ask("GET", one)
            assert (status, error_of(raw)["code"]) == (504, "upstream_timeout")
            place.a.pause_s, place.a.pause_in_stream_s = 0.0, 5.0
            place.a.sent.clear()
            status, _, raw = await place.ask("GET", one + "?stream=true")
            assert (status, len(place.a.sent)) == (200, 1)
            assert raw.startswith(place.a.sent[0])
            last = json.loads(raw.removeprefix(place.a.sent[0]).split(b"data: ", 1)[1])
            assert (last["type"], last["code"]) == ("error", "timeout_idle")
            await eventually(lambda: place.a.streams_closed_early == 1)

    here(test, POLICY.replace("{", "{timeouts: {first_token_s: 0.3, idle_s: 0.3}, ", 1))


def test_a_client_that_leaves_a_stream_ends_it_at_the_target(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        place.a.pause_in_stream_s = 60.0
        async with worker(place.files) as url:
            one = f"{url}{RESPONSES}/{await place.create(url)}?stream=true"
            headers = {"Authorization": f"Bearer {MINE}"}
            async with place.session.get(one, headers=headers) as response:
                await response.content.readany()
                response.close()
            await eventually(lambda: place.a.streams_closed_early == 1)

    here(test)


def test_a_home_is_a_row_and_its_target_may_go(here: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        async with worker(place.files) as url:
            made = await place.create(url, model="b")
        engine = create_engine(place.files.database_url)
        drain = Drain(engine, place.files.data_dir / "spool")
        while drain.step():
            pass
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT id, target, caller FROM response_homes")).all()
        engine.dispose()
        assert [tuple(row) for row in rows] == [(made, "b", "mine")]

        kept = [target for target in place.files.deployment.targets if target.name != "b"]
        deployment = place.files.deployment.model_copy(update={"targets": kept})
        without = Files(deployment, {}, place.files.policy, place.files.data_dir, place.files.database_url)
        async with worker(without) as url:
            for method, path, body in (
                ("GET", f"{RESPONSES}/{made}", {}),
                ("POST", RESPONSES, {"previous_response_id": made}),
            ):
                status, _, raw = await place.ask(method, url + path, **body)
                assert (status, error_of(raw)["code"]) == (503, "no_target")

    here(test)
