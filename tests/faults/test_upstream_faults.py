"""Every fault of an upstream that we know of, against one real gateway: what clients see, what is logged and charged.

Each call has its own expectation in `CASES`. At the end the fault table is printed, and written as JSON to the file
that `SPARKGATE_FAULTS_JSON` names. `SPARKGATE_EXAMPLES` says how many calls are made in all, at least each one once;
`make test-faults` makes thousands.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from gateway.ledger.database import create_engine
from gateway.upstreams.http_pool import IDLE_S
from tests.conftest import PostgresServer
from tests.faults.answers import INPUT_TOKENS, OUTPUT_TOKENS, Api
from tests.faults.hostile import MISBEHAVIOURS
from tests.faults.world import INPUT_USD_PER_MTOK, KEY, NETWORK, OUTPUT_USD_PER_MTOK, World, world
from tests.system.product import PATIENCE_S

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(900)]

EXAMPLES = int(os.environ.get("SPARKGATE_EXAMPLES", "0"))
AT_ONCE = 12  # beside those that only wait for a deadline
MAX_GROWTH_BYTES = 50 * 2**20  # of which an answer of a bomb would be more
Charge = Literal["told", "nothing", "estimate", "unknown"]
Mode = Literal["streamed", "whole"]
TOLD_USD = (INPUT_TOKENS * INPUT_USD_PER_MTOK + OUTPUT_TOKENS * OUTPUT_USD_PER_MTOK) * 1e-6


@dataclass(frozen=True)
class Outcome:
    """What a call comes to: status and error code for the client, result and charge of its first attempt."""

    status: int
    code: str | None
    result: str
    charge: Charge
    may_go_on: bool = True  # another target is tried, where there is one


SOUND = Outcome(200, None, "ok", "told", may_go_on=False)
UNPRICED = replace(SOUND, charge="unknown")
CUT = Outcome(200, "cut_off", "cut_off", "estimate", may_go_on=False)  # in mid-stream
SILENT = Outcome(504, "timeout_first_token", "timeout_first_token", "estimate")
TOO_LONG = Outcome(504, "timeout_total", "timeout_total", "estimate", may_go_on=False)
NO_CONNECTION = Outcome(502, "connect_error", "connect_error", "nothing")
BROKEN = Outcome(502, "cut_off", "cut_off", "estimate")
GARBAGE = Outcome(502, "bad_response", "bad_response", "estimate")
FAILED = Outcome(502, "http_error", "http_error", "nothing")


def refused(status: int, may_go_on: bool = True) -> Outcome:
    return Outcome(status, "server_error", "http_error", "nothing", may_go_on)


@dataclass(frozen=True)
class Case:
    """None: this way of asking makes no difference to another case, or none at all."""

    streamed: Outcome | None
    whole: Outcome | None
    is_chats: bool = False  # only chat completions write it so


def both(outcome: Outcome) -> Case:
    return Case(outcome, outcome)


CASES: dict[str, Case] = {
    "sound": both(SOUND),
    "never_answers": Case(SILENT, TOO_LONG),
    "answers_too_late": Case(SILENT, TOO_LONG),
    "silent_after_head": Case(SILENT, TOO_LONG),
    "silent_in_mid_answer": Case(replace(CUT, code="timeout_idle", result="timeout_idle"), TOO_LONG),
    "silent_after_comments": Case(SILENT, None),
    "drips_head": Case(SILENT, TOO_LONG),
    "drips_body": Case(SILENT, TOO_LONG),
    "drips_after_first_token": Case(replace(CUT, code="timeout_total", result="timeout_total"), None),
    "resets_before_head": both(NO_CONNECTION),
    "closes_before_head": both(NO_CONNECTION),
    "resets_in_head": both(NO_CONNECTION),
    "resets_after_head": both(BROKEN),
    "closes_after_head": both(BROKEN),
    "resets_in_mid_answer": Case(CUT, BROKEN),
    "closes_in_mid_answer": Case(CUT, BROKEN),
    "resets_inside_a_character": Case(CUT, BROKEN),
    "sends_half_an_event": Case(CUT, None),
    "ends_without_an_end": Case(CUT, None),
    "10_mb_without_newline": Case(GARBAGE, SOUND, is_chats=True),
    "10_mb_without_newline_later": Case(CUT, None, is_chats=True),
    "done_missing": Case(SOUND, None),
    "usage_missing": Case(UNPRICED, UNPRICED, is_chats=True),
    "usage_with_choices": Case(SOUND, None, is_chats=True),
    "usage_twice": Case(SOUND, None, is_chats=True),
    "usage_of_words": Case(UNPRICED, UNPRICED, is_chats=True),
    "usage_half_of_words": Case(UNPRICED, UNPRICED, is_chats=True),
    "usage_negative": Case(UNPRICED, UNPRICED, is_chats=True),
    "usage_astronomic": Case(UNPRICED, UNPRICED, is_chats=True),
    "usage_of_fractions": Case(UNPRICED, UNPRICED, is_chats=True),
    "usage_of_parts_beyond_the_whole": Case(SOUND, SOUND, is_chats=True),
    "figures_of_no_engine": Case(SOUND, SOUND, is_chats=True),
    "figures_of_words": Case(SOUND, SOUND, is_chats=True),
    "finish_reason_of_objects": Case(SOUND, SOUND, is_chats=True),
    "error_in_200": both(replace(FAILED, code="overloaded_error")),
    "error_in_mid_stream": Case(replace(CUT, code="upstream_error"), None),
    "html_in_200": both(GARBAGE),
    "empty_200": both(GARBAGE),
    "list_in_200": both(GARBAGE),
    "two_bodies_in_one": both(GARBAGE),
    "json_for_a_stream": Case(GARBAGE, None),
    "stream_for_json": Case(None, GARBAGE),
    "invalid_utf8": Case(GARBAGE, GARBAGE, is_chats=True),
    "nul_in_error": both(refused(500)),
    "nul_in_answer": Case(SOUND, SOUND, is_chats=True),
    "429": both(refused(429)),
    "429_retry_after_1": both(refused(429)),
    "429_retry_after_an_hour": both(refused(429)),
    "429_retry_after_nonsense": both(refused(429)),
    "429_html": both(replace(FAILED, status=429)),
    "500": both(refused(500)),
    "503_html": both(FAILED),
    "521": both(FAILED),
    "529": both(refused(529)),
    "400": both(refused(400, may_go_on=False)),
    "400_in_own_words": both(replace(FAILED, status=400, may_go_on=False)),
    "401": both(FAILED),
    "204": both(FAILED),
    "302": both(FAILED),
    "999": both(FAILED),
    "not_http": both(NO_CONNECTION),
    "random_bytes": both(NO_CONNECTION),
    "http_1_0_without_length": both(SOUND),
    "http_1_0_cut": Case(CUT, GARBAGE),
    "length_too_long": Case(SOUND, BROKEN),
    "length_too_short": Case(None, GARBAGE),
    "length_negative": both(NO_CONNECTION),
    "length_and_chunks": both(NO_CONNECTION),
    "chunk_of_no_size": Case(CUT, BROKEN),
    "chunk_cut": Case(CUT, BROKEN),
    "second_answer_behind": both(SOUND),
    "gzip": both(SOUND),
    "gzip_damaged": both(BROKEN),
    "gzip_cut": Case(None, BROKEN),
    "gzip_bomb": Case(BROKEN, BROKEN, is_chats=True),
    "brotli": both(BROKEN),
    "header_bomb": both(NO_CONNECTION),
    "header_of_1_mb": both(NO_CONNECTION),
    "header_without_end": both(NO_CONNECTION),
    "header_not_ascii": both(NO_CONNECTION),
    "continues_then_answers": both(SOUND),
    "continues_for_ever": both(NO_CONNECTION),
    "switches_protocols": both(NO_CONNECTION),
}
_NEVER_SENT = Case(replace(SILENT, charge="nothing"), replace(TOO_LONG, charge="nothing"))
NETWORK_CASES: dict[str, Case] = {
    "no_such_host": both(NO_CONNECTION),
    "nobody_listens": both(NO_CONNECTION),
    "never_connects": _NEVER_SENT,
    "tls": both(SOUND),
    "tls_self_signed": both(NO_CONNECTION),
    "tls_expired": both(NO_CONNECTION),
    "tls_of_another_host": both(NO_CONNECTION),
    "tls_to_a_plain_port": both(NO_CONNECTION),
    "plain_to_a_tls_port": both(NO_CONNECTION),
    "tls_handshake_never_ends": _NEVER_SENT,
}
SLOW = ("10_mb_without_newline", "10_mb_without_newline_later", "gzip_bomb")  # they take the worker's time
WAYS: tuple[tuple[Api, Api], ...] = (  # what the client speaks, and what its target does
    ("chat", "chat"),
    ("messages", "messages"),
    ("responses", "responses"),
    ("messages", "chat"),
    ("responses", "chat"),
)
# Where formats matter: in bodies and events. The others are faults of what carries them.
OF_FORMATS = frozenset(
    {
        *(
            "sound",
            "silent_in_mid_answer",
            "resets_in_mid_answer",
            "resets_inside_a_character",
            "sends_half_an_event",
        ),
        *(
            "ends_without_an_end",
            "done_missing",
            "error_in_200",
            "error_in_mid_stream",
            "html_in_200",
            "empty_200",
        ),
        *(
            "json_for_a_stream",
            "stream_for_json",
            "429_retry_after_1",
            "500",
            "400",
            "400_in_own_words",
            "never_answers",
        ),
    }
)
PATHS: dict[Api, str] = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
Shown = Literal["answer", "error", "broken off", "nothing"]


@dataclass
class Call:
    """One call: what was asked how, what must come of it, and what its client saw."""

    case: str
    said: Api
    target: Api
    mode: Mode
    expected: Outcome
    has_fallback: bool = False
    status: int = 0
    request_id: str = ""
    shown: Shown = "nothing"

    @property
    def stream(self) -> bool:
        return self.mode == "streamed"

    @property
    def name(self) -> str:
        """The target that is tried first."""
        return f"{self.target}.{self.case}" + (f".{self.mode}" if self.has_fallback else "")

    @property
    def waits(self) -> bool:
        return self.expected.result.startswith("timeout")

    @property
    def falls_back(self) -> bool:
        return self.has_fallback and self.expected.may_go_on

    def body(self) -> dict[str, Any]:
        model = f"then.{self.name}" if self.has_fallback else self.name
        asked: dict[str, Any] = {"model": model, "stream": self.stream}
        if self.said == "responses":
            return asked | {"input": "hello", "store": False}
        asked["messages"] = [{"role": "user", "content": "hello"}]
        return asked | {"max_tokens": 100} if self.said == "messages" else asked

    def see(self, status: int, request_id: str, raw: bytes) -> None:
        self.status, self.request_id = status, request_id
        self.shown = _streamed(raw) if self.stream and status == 200 else _whole(self.said, status, raw)

    def __str__(self) -> str:
        fallback = ", with a fallback" if self.has_fallback else ""
        return f"{self.case} ({self.said} to {self.target}, {self.mode}{fallback})"


def _whole(api: Api, status: int, raw: bytes) -> Shown:
    value = json.loads(raw)
    if status == 200:
        return "answer" if value.get("choices") or value.get("content") or value.get("output") else "nothing"
    keys = {"type", "message"} if api == "messages" else {"message", "type", "code"}
    assert keys <= value["error"].keys(), raw
    return "error"


def _streamed(raw: bytes) -> Shown:
    """Events are whole JSON to the last one, and the last one says how it ended."""
    *events, rest = raw.decode().split("\n\n")
    assert not rest, raw[-200:]
    data = [line[6:] for event in events for line in event.split("\n") if line.startswith("data: ")]
    values = [json.loads(each) for each in data if each != "[DONE]"]
    assert all(isinstance(value, dict) for value in values)
    last = values[-1]
    if last.get("error") or last.get("type") in ("error", "response.failed"):
        return "broken off"
    if data[-1] == "[DONE]" or last.get("type") in ("message_stop", "response.completed"):
        return "answer"
    choices = last.get("choices") or [{}]
    has_reason = choices[0].get("finish_reason") or last.get("delta", {}).get("stop_reason")
    return "answer" if has_reason else "nothing"


def calls() -> Iterator[Call]:
    """Each case in each way, or where there is little time in those that differ; chat's with a fallback as well."""
    for name, case in (CASES | NETWORK_CASES).items():
        is_chats = case.is_chats or name in NETWORK_CASES or not (EXAMPLES or name in OF_FORMATS)
        for said, target in WAYS[:1] if is_chats else WAYS:
            for mode, expected in (("streamed", case.streamed), ("whole", case.whole)):
                if (name, target, mode) == ("done_missing", "responses", "streamed"):
                    expected = CUT  # all that says how it ended is in its last event
                if expected is not None:
                    yield Call(name, said, target, mode, expected)  # type: ignore[arg-type]
                    if said == "chat":
                        yield Call(name, said, target, mode, expected, has_fallback=True)  # type: ignore[arg-type]


@dataclass
class Record:
    """What came of all calls."""

    calls: list[Call]
    exchanges: dict[str, Any]  # rows by request id
    attempts: dict[str, list[Any]]
    before: dict[str, Any]
    after: dict[str, Any]
    quarantined: list[Path]
    log: str = field(repr=False)


@pytest.fixture(scope="module")
def the_world(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = postgres.create()
    with world(url, tmp_path_factory.mktemp("hostile")) as running:
        yield running
    postgres.drop(url)


@pytest.fixture(scope="module")
def record(the_world: World) -> Record:
    made = list(calls())
    while len(made) < EXAMPLES:
        made += [call for call in calls() if not call.has_fallback]
    warm = [replace(call) for call in made if call.case == "sound"]
    asyncio.run(_make(the_world, warm))
    before = the_world.held()
    asyncio.run(_make(the_world, made))
    exchanges, attempts = _rows(the_world, len(made) + len(warm))
    after = _settled(the_world, before)
    made += warm
    quarantine = the_world.product.data_dir / "spool" / "quarantine"
    log = (the_world.product.data_dir / "logs" / "gateway.log").read_text()
    kept = sorted(quarantine.iterdir()) if quarantine.exists() else []
    return Record(made, exchanges, attempts, before, after, kept, log)


async def _make(world: World, made: Sequence[Call]) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    patience, limit, alone = asyncio.Semaphore(200), asyncio.Semaphore(AT_ONCE), asyncio.Lock()
    waits, connector = aiohttp.ClientTimeout(total=PATIENCE_S), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        world.product.url, headers=headers, timeout=waits, connector=connector
    ) as http:
        quick = [call for call in made if call.case not in SLOW]
        await asyncio.gather(
            *(_call(http, call, patience if call.waits else limit) for call in quick),
        )
        await asyncio.gather(*(_call(http, call, alone) for call in made if call.case in SLOW))


async def _call(http: aiohttp.ClientSession, call: Call, limit: asyncio.Semaphore | asyncio.Lock) -> None:
    async with limit:
        try:
            async with http.post(PATHS[call.said], json=call.body()) as answer:
                raw = await answer.read()
                call.see(answer.status, answer.headers.get("x-request-id", ""), raw)
        except (aiohttp.ClientError, ConnectionError):
            return


def _rows(world: World, expected: int) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Exchanges and their attempts, once they are there or no more come."""
    engine = create_engine(world.product.env["SPARKGATE_DATABASE_URL"])
    deadline, found = time.monotonic() + PATIENCE_S, -1
    with engine.connect() as connection:
        while found < expected:
            seen, found = found, int(connection.scalar(text("SELECT count(*) FROM exchanges")) or 0)
            connection.rollback()
            if seen == found and not _waiting(world):
                break
            assert time.monotonic() < deadline, "the drain does not come to an end"
            time.sleep(0.7)
        exchanges = {f"req_{row.id.hex}": row for row in connection.execute(text("SELECT * FROM exchanges"))}
        attempts: dict[str, list[Any]] = {key: [] for key in exchanges}
        for row in connection.execute(text("SELECT * FROM attempts ORDER BY ordinal")):
            attempts[f"req_{row.exchange_id.hex}"].append(row)
    engine.dispose()
    return exchanges, attempts


def _waiting(world: World) -> list[Path]:
    return [
        each for each in (world.product.data_dir / "spool").iterdir() if each.suffix in (".open", ".ready")
    ]


def _settled(world: World, before: dict[str, Any]) -> dict[str, Any]:
    """What the worker holds once it holds no more than before; where that does not happen, what it holds then."""
    deadline = time.monotonic() + (IDLE_S + 30.0 if EXAMPLES else 10.0)
    while True:
        held = world.held()
        is_settled = (held["tasks"], held["parts"]) == (before["tasks"], {})
        has_closed = (
            held["descriptors"] <= before["descriptors"] or not EXAMPLES
        )  # idle ones are kept for a while
        if (is_settled and has_closed) or time.monotonic() > deadline:
            return held
        time.sleep(0.2)


def test_there_is_an_expectation_for_every_misbehaviour() -> None:
    assert CASES.keys() == MISBEHAVIOURS.keys()
    assert NETWORK_CASES.keys() == NETWORK.keys()


def test_no_call_is_left_without_a_whole_answer_or_a_whole_error(record: Record) -> None:
    assert [str(call) for call in record.calls if call.shown == "nothing"] == []


def test_clients_see_what_they_should(record: Record) -> None:
    wrong = []
    for call in record.calls:
        expected = call.expected
        shown = "answer" if expected.code is None else "broken off" if expected.status == 200 else "error"
        told = (200, "answer") if call.falls_back else (expected.status, shown)
        if (call.status, call.shown) != told:
            wrong.append(f"{call}: {call.status} {call.shown}, not {told}")
    assert not wrong, "\n".join(wrong)


def test_every_call_is_in_the_ledger_once_with_its_result_and_its_cost(record: Record) -> None:
    assert record.quarantined == []
    assert len(record.exchanges) == len(record.calls)
    wrong = []
    for call in record.calls:
        row, (first, *others) = record.exchanges[call.request_id], record.attempts[call.request_id]
        code = None if call.falls_back else call.expected.code
        if (row.status, row.error_code) != (call.status, code):
            wrong.append(f"{call}: {row.status} {row.error_code}, not {call.status} {code}")
        if row.attempts != 1 + len(others):
            wrong.append(f"{call}: {row.attempts} attempts, but {1 + len(others)} rows")
        assert first.target == call.name
        if (first.result, _charge(first)) != (call.expected.result, call.expected.charge):
            told = f"{call.expected.result} {call.expected.charge}"
            wrong.append(f"{call}: {first.result} {_charge(first)} ({first.error_message}), not {told}")
        if row.cost_usd is not None and row.cost_usd != sum(each.cost_usd for each in (first, *others)):
            wrong.append(f"{call}: {row.cost_usd} is not what its attempts cost")
    assert not wrong, "\n".join(wrong)


def _charge(attempt: Any) -> Charge:
    if attempt.cost_usd is None:
        return "unknown"
    if attempt.is_estimated:
        assert attempt.cost_usd > 0
        return "estimate"
    if attempt.cost_usd == 0:
        return "nothing"
    assert 0 < float(attempt.cost_usd) <= TOLD_USD * 1.3, attempt.cost_usd
    return "told"


def test_nothing_is_left_of_the_calls_in_the_worker(record: Record) -> None:
    assert record.after["pid"] == record.before["pid"], "the worker was started anew"
    assert record.after["parts"] == {}
    assert record.after["tasks"] == record.before["tasks"]
    if EXAMPLES:
        assert record.after["descriptors"] <= record.before["descriptors"]
        assert record.after["rss_bytes"] - record.before["rss_bytes"] < MAX_GROWTH_BYTES
    assert "failed inside the gateway" not in record.log
    assert "Traceback" not in record.log


def test_the_table_of_faults(record: Record) -> None:
    """Not a check of its own: what the others have found, for people to read."""
    rows = list(_table(record))
    table = Table(title=f"{len(record.calls):,} calls, {len(rows)} faults", title_justify="left")
    for column in ("fault", "calls", "streamed", "whole", "calls lost", "rows lost", "charged", "leaks"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=160).print(table)
    for what in ("descriptors", "rss_bytes"):
        print(f"{what} of the worker: {record.before[what]:,} before, {record.after[what]:,} after")
    if path := os.environ.get("SPARKGATE_FAULTS_JSON"):
        held = {"before": record.before, "after": record.after}
        Path(path).write_text(json.dumps({"faults": rows, "worker": held}, indent=1))
    assert sum(row["calls"] for row in rows) == len(record.calls)


def _table(record: Record) -> Iterator[dict[str, Any]]:
    leaks = sum(record.after["parts"].values())
    for name in CASES | NETWORK_CASES:
        of_case = [call for call in record.calls if call.case == name]
        charges = Counter(
            _charge(attempts[0]) for call in of_case if (attempts := record.attempts.get(call.request_id))
        )
        seen = {
            mode: ", ".join(sorted({_seen(call, record) for call in of_case if call.mode == mode})) or "–"
            for mode in ("streamed", "whole")
        }
        yield {
            "fault": name,
            "calls": len(of_case),
            **seen,
            "calls_lost": sum(call.shown == "nothing" for call in of_case),
            "rows_lost": sum(call.request_id not in record.exchanges for call in of_case),
            "charged": ", ".join(sorted(charges)),
            "leaks": leaks,
        }


def _seen(call: Call, record: Record) -> str:
    if call.falls_back:
        return "fallback answers" if call.shown == "answer" else f"fallback failed: {call.status}"
    row = record.exchanges.get(call.request_id)
    code = f" {row.error_code}" if row is not None and row.error_code else ""
    return f"{call.status}{', then' if call.shown == 'broken off' else ''}{code}"
