"""A record is on disk when `append` returns, whole or detectably torn, whatever happens to its worker."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import segments
from gateway.ledger.errors import LedgerFull
from gateway.ledger.spool import Spool

MIB = 1 << 20


def records_in(path: Path) -> list[Any]:
    return [segments.decode_line(line) for line, _ in segments.lines_of(path)]


def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w0", MIB)
    spool.append({"kind": "x", "text": "grüß\n"})
    (path,) = tmp_path.glob("w0-*.open")
    assert records_in(path) == [{"kind": "x", "text": "grüß\n"}]
    spool.close()


def test_segments_rotate_by_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w0", MIB, segment_bytes=1000)
    for number in range(10):
        spool.append({"number": number, "pad": "x" * 300})
    spool.close()
    ready = segments.ready(tmp_path)
    numbers = sorted([record["number"] for record in records_in(path)] for path in ready)
    assert numbers == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]  # at 330 bytes a line


@pytest.mark.parametrize(("age_s", "handed_over"), [(3600.0, 0), (0.0, 1)])
def test_tick_hands_over_an_old_segment_but_not_a_young_one(
    tmp_path: Path, age_s: float, handed_over: int
) -> None:
    spool = Spool(tmp_path, "w0", MIB, segment_age_s=age_s)
    spool.tick()
    assert list(tmp_path.iterdir()) == []
    spool.append({})
    spool.tick()
    assert len(segments.ready(tmp_path)) == handed_over
    spool.close()


def test_steps_hand_segments_over_and_sync(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = Spool(tmp_path, "w0", MIB)
        spool.append({"kind": "x"})
        while not segments.ready(tmp_path):
            await spool.step()
            await asyncio.sleep(0.01)
        spool.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_close_leaves_only_ready_segments_and_append_works_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w0", MIB)
    spool.append({"n": 1})
    spool.close()
    spool.close()
    spool.append({"n": 2})
    spool.close()
    assert [record for path in segments.ready(tmp_path) for record in records_in(path)] == [
        {"n": 1},
        {"n": 2},
    ]


def test_the_drain_does_not_adopt_the_segment_of_a_living_worker(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w0", MIB)
    spool.append({"n": 1})
    assert segments.adopt(tmp_path) == []
    spool.close()


_WRITER = """
import sys
from pathlib import Path
from gateway.ledger.spool import Spool
spool = Spool(Path(sys.argv[1]), "w0", 1 << 30)
number = 0
while True:
    spool.append({"number": number, "pad": "x" * 2000})
    print(number, flush=True)
    number += 1
"""


def test_every_acknowledged_record_survives_kill_9_of_its_worker(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(500)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
    (segment,) = segments.adopt(tmp_path) or segments.ready(tmp_path)
    kept = [record["number"] for record in records_in(segment) if record is not None]
    assert kept[: len(acknowledged)] == acknowledged
    assert kept == list(range(len(kept)))


def test_full_counts_all_workers_and_refuses_a_quarter_later(tmp_path: Path) -> None:
    other, spool = Spool(tmp_path, "w1", MIB), Spool(tmp_path, "w0", MIB)
    other.append({"pad": "x" * (MIB - 100_000)})
    spool = Spool(tmp_path, "w0", MIB)
    assert not spool.is_full
    spool.append({"pad": "x" * 110_000})
    assert spool.is_full
    spool.append({"pad": "x" * 100_000})  # a call admitted before: still written
    with pytest.raises(LedgerFull, match="limit"):
        spool.append({"pad": "x" * 200_000})
    assert spool.full_losses == 1
    other.close()
    spool.close()


def test_a_write_that_the_disk_refuses_is_reported_and_leaves_no_torn_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "w0", 100 * MIB)
    spool.append({"n": 1})
    before, previous = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(LedgerFull, match="cannot write"):
            spool.append({"pad": "x" * 10_000})
        assert spool.is_full
        assert spool.is_disk_full
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert spool.full_losses == 1
    spool.append({"n": 2})
    spool.close()
    assert not Spool(tmp_path, "w0", 100 * MIB).is_full
    (path,) = segments.ready(tmp_path)
    assert records_in(path) == [{"n": 1}, {"n": 2}]


def test_a_directory_that_went_away_is_reported_as_ledger_full(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "w0", MIB)
    (tmp_path / "spool").rmdir()
    with pytest.raises(LedgerFull, match="cannot open"):
        spool.append({})


def test_a_worker_name_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="worker"):
        Spool(tmp_path, "../w", MIB)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["\ud800", 10**30, float("nan"), {"a": ["\udfff"]}, nested(300)])
def test_values_that_json_cannot_hold_do_not_cost_the_record(value: object) -> None:
    record = segments.decode_line(segments.encode_line({"kind": "x", "value": value})[:-1])
    assert record is not None
    assert record["kind"] == "x"


@given(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none() | st.booleans()))
def test_a_line_gives_back_its_record(record: dict[str, Any]) -> None:
    line = segments.encode_line(record)
    assert line.count(b"\n") == 1
    assert segments.decode_line(line[:-1]) == record


@given(st.data())
def test_any_change_of_one_byte_and_any_cut_is_noticed(data: st.DataObject) -> None:
    line = segments.encode_line({"kind": "exchange", "text": "some text"})[:-1]
    at = data.draw(st.integers(0, len(line) - 1))
    flipped = bytearray(line)
    flipped[at] ^= data.draw(st.integers(1, 255))
    assert segments.decode_line(bytes(flipped)) is None
    assert segments.decode_line(line[:at]) is None


def test_files_of_a_worker_that_died_before_locking_are_removed_later(tmp_path: Path) -> None:
    young, old = tmp_path / "w0-1.new", tmp_path / "w0-2.new"
    young.touch()
    old.touch()
    os.utime(old, (0, 0))
    segments.adopt(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["w0-1.new"]
