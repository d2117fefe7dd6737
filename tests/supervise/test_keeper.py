"""Keepers with real processes: ready, restarted, stopped, given up, and what their logs and the board say."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.supervise import logs
from gateway.supervise.orphans import recorded
from gateway.supervise.part import GIVE_UP_AFTER, Part
from gateway.supervise.status import Board
from gateway.supervise.supervisor import Supervisor
from tests.supervise.conftest import python, until

pytestmark = pytest.mark.usefixtures("nothing_left")
Scene = Callable[[Supervisor], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, board: Board) -> Callable[[Scene], None]:
    """Runs a coroutine with a supervisor, whose parts are all ended afterwards."""

    async def with_supervisor(scene: Scene) -> None:
        hurry = asyncio.Event()
        async with Supervisor(board, tmp_path / "parts.json", tmp_path / "logs", hurry) as supervisor:
            await scene(supervisor)

    return lambda scene: asyncio.run(with_supervisor(scene))


def server(file: Path, port: int, leave_after_s: float = 0.0, **settings: object) -> Part:
    return Part(
        name="server",
        argv=python(file, port, file.with_name("stops.txt"), leave_after_s),
        ready_url=f"http://127.0.0.1:{port}/",
        **settings,  # type: ignore[arg-type]
    )


async def pid_at(port: int, path: str = "/") -> int:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        return int((await client.get(f"http://127.0.0.1:{port}{path}")).text)


def test_a_part_is_ready_once_it_answers_and_leads_a_session_of_its_own(
    run: Callable[[Scene], None], server_file: Path, free_port: int, tmp_path: Path
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        keeper = supervisor.keep(server(server_file, free_port))
        await keeper.was_ready.wait()
        pid = await pid_at(free_port)
        assert os.getsid(pid) == pid != os.getsid(0)
        assert [(child.name, child.pid) for child in recorded(tmp_path / "parts.json")] == [("server", pid)]
        await supervisor.stop(["server"])
        assert not psutil.pid_exists(pid)
        assert recorded(tmp_path / "parts.json") == []

    run(scene)


def test_a_killed_part_is_started_again(
    run: Callable[[Scene], None], server_file: Path, free_port: int, shown: io.StringIO
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        await supervisor.keep(server(server_file, free_port)).was_ready.wait()
        first = await pid_at(free_port)
        os.kill(first, signal.SIGKILL)
        await until(lambda: shown.getvalue().count("ready") == 2)
        assert await pid_at(free_port) != first

    run(scene)
    assert "was ended by SIGKILL; again in 0.5 s" in shown.getvalue()


@pytest.mark.parametrize("cannot_be_written", ["parts.new", "logs/server.log.1"])
def test_a_full_disk_ends_no_part(
    run: Callable[[Scene], None],
    server_file: Path,
    free_port: int,
    shown: io.StringIO,
    tmp_path: Path,
    cannot_be_written: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder in a file's place refuses to be written."""
    monkeypatch.setattr(logs, "_ROTATE_BYTES", -1)

    async def scene(supervisor: Supervisor) -> None:
        await supervisor.keep(server(server_file, free_port)).was_ready.wait()
        obstacle = tmp_path / cannot_be_written / "full"
        obstacle.mkdir(parents=True)
        os.kill(await pid_at(free_port), signal.SIGKILL)
        given_up = asyncio.create_task(supervisor.first_given_up())
        await until(lambda: "again in 0.5 s" in shown.getvalue())
        await asyncio.sleep(0.6)
        obstacle.rmdir()
        obstacle.parent.rmdir()
        await until(lambda: shown.getvalue().count("ready") == 2)
        assert not given_up.done()
        given_up.cancel()

    run(scene)


def test_a_stopped_part_may_finish_what_it_does(
    run: Callable[[Scene], None], server_file: Path, free_port: int
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        part = server(server_file, free_port, leave_after_s=1.5, stop_grace_s=60)
        await supervisor.keep(part).was_ready.wait()
        answer = asyncio.create_task(pid_at(free_port, "/slow"))
        await asyncio.sleep(0.2)
        await supervisor.stop(["server"])
        assert await answer > 0

    run(scene)
    assert server_file.with_name("stops.txt").read_text().count("was asked to stop") == 1


def test_a_part_that_does_not_leave_in_its_grace_is_killed(
    run: Callable[[Scene], None], server_file: Path, free_port: int
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        part = server(server_file, free_port, leave_after_s=600, stop_grace_s=0.2)
        await supervisor.keep(part).was_ready.wait()
        pid = await pid_at(free_port)
        await supervisor.stop(["server"])
        assert not psutil.pid_exists(pid)

    run(scene)


def test_hurry_cuts_the_grace_short(
    tmp_path: Path, board: Board, server_file: Path, free_port: int, shown: io.StringIO
) -> None:
    async def scene() -> None:
        hurry = asyncio.Event()
        async with Supervisor(board, tmp_path / "parts.json", tmp_path / "logs", hurry) as supervisor:
            part = server(server_file, free_port, leave_after_s=600, stop_grace_s=600)
            await supervisor.keep(part).was_ready.wait()
            stopping = asyncio.create_task(supervisor.stop(["server"]))
            await until(lambda: server_file.with_name("stops.txt").exists())
            assert not stopping.done()
            hurry.set()
            await stopping

    asyncio.run(scene())
    assert "stopped" in shown.getvalue()


def test_what_a_dead_part_left_in_its_session_is_ended_too(
    run: Callable[[Scene], None], tmp_path: Path
) -> None:
    file = tmp_path / "parent.py"
    file.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'child.txt')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )

    async def scene(supervisor: Supervisor) -> None:
        await supervisor.keep(Part("parent", python(file))).was_ready.wait()
        await until(lambda: (tmp_path / "child.txt").exists() and bool((tmp_path / "child.txt").read_text()))
        child = psutil.Process(int((tmp_path / "child.txt").read_text()))
        await supervisor.stop(["parent"])
        assert not child.is_running()

    run(scene)


def test_a_needed_part_that_never_starts_is_given_up_and_its_log_is_shown_once(
    run: Callable[[Scene], None], tmp_path: Path, shown: io.StringIO
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(
        f"open({str(tmp_path / 'tries.txt')!r}, 'a').write('x')\nraise SystemExit('no such model')"
    )

    async def scene(supervisor: Supervisor) -> None:
        keeper = supervisor.keep(Part("broken", python(file), needed=True))
        assert await supervisor.first_given_up() == "broken"
        assert keeper.was_tried.is_set()
        assert not keeper.was_ready.is_set()

    run(scene)
    assert (tmp_path / "tries.txt").read_text() == "x" * GIVE_UP_AFTER
    assert shown.getvalue().count("    no such model") == 1
    assert "broken did not start: exited with code 1" in shown.getvalue()


def test_a_needed_part_that_waits_for_another_is_not_given_up(
    run: Callable[[Scene], None], tmp_path: Path
) -> None:
    tries, file = tmp_path / "tries.txt", tmp_path / "waits.py"
    file.write_text(
        f"import os, sys, time\ntries = open({str(tries)!r}, 'a+')\ntries.write('x')\ntries.seek(0)\n"
        f"if len(tries.read()) <= {GIVE_UP_AFTER}: sys.exit(os.EX_TEMPFAIL)\ntries.close()\ntime.sleep(600)"
    )

    async def scene(supervisor: Supervisor) -> None:
        keeper = supervisor.keep(Part("waits", python(file), needed=True))
        await asyncio.wait_for(keeper.was_ready.wait(), 30)
        assert not keeper.gave_up

    run(scene)
    assert tries.read_text() == "x" * (GIVE_UP_AFTER + 1)


def test_a_part_that_is_not_ready_in_time_is_ended_and_tried_again(
    run: Callable[[Scene], None], tmp_path: Path, free_port: int, shown: io.StringIO
) -> None:
    file = tmp_path / "mute.py"
    file.write_text("import time\nprint('loading', flush=True)\ntime.sleep(600)")
    part = Part("mute", python(file), ready_url=f"http://127.0.0.1:{free_port}/", start_timeout_s=1.0)

    async def scene(supervisor: Supervisor) -> None:
        await supervisor.keep(part).was_tried.wait()

    run(scene)
    assert "mute did not start: was not ready within 1 s" in shown.getvalue()
    assert "    loading" in shown.getvalue()


def test_a_part_is_prepared_once_and_its_progress_is_shown(
    run: Callable[[Scene], None], server_file: Path, free_port: int, tmp_path: Path, shown: io.StringIO
) -> None:
    prepare = tmp_path / "prepare.py"
    prepare.write_text(
        f"import time\nopen({str(tmp_path / 'prepared.txt')!r}, 'a').write('x')\n"
        "print('fetching 10%', end='\\r')\nprint('\\033[2Kfetching 90%', end='\\r', flush=True)\ntime.sleep(2.5)"
    )

    async def scene(supervisor: Supervisor) -> None:
        await supervisor.keep(server(server_file, free_port, prepare=python(prepare))).was_ready.wait()
        os.kill(await pid_at(free_port), signal.SIGKILL)
        await until(lambda: shown.getvalue().count("  ready") == 2)

    run(scene)
    assert (tmp_path / "prepared.txt").read_text() == "x"
    assert "fetching 90%" in shown.getvalue()
    assert "10%" not in shown.getvalue()


def test_a_part_whose_preparation_fails_is_not_started(
    run: Callable[[Scene], None], server_file: Path, free_port: int, shown: io.StringIO
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        keeper = supervisor.keep(
            server(server_file, free_port, prepare=python("-c", "raise SystemExit('offline')"))
        )
        await keeper.was_tried.wait()
        assert not keeper.was_ready.is_set()

    run(scene)
    assert "preparing it failed: it exited with code 1" in shown.getvalue()
    assert "    offline" in shown.getvalue()


def test_the_environment_is_the_users_with_the_parts_own_and_without_the_first_key(
    run: Callable[[Scene], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKGATE_API_KEY", "sg-secret")
    monkeypatch.setenv("OF_THE_USER", "kept")
    part = Part(
        "env", python("-c", "import os, time; print(dict(os.environ)); time.sleep(600)"), {"OWN": "1"}
    )

    async def scene(supervisor: Supervisor) -> None:
        await supervisor.keep(part).was_ready.wait()
        await until(lambda: "OF_THE_USER" in (tmp_path / "logs" / "env.log").read_text())

    run(scene)
    text = (tmp_path / "logs" / "env.log").read_text()
    assert "'OF_THE_USER': 'kept'" in text
    assert "'OWN': '1'" in text
    assert "SPARKGATE_API_KEY" not in text


def test_a_fault_in_a_keeper_is_not_swallowed(tmp_path: Path, board: Board) -> None:
    class Faulty:
        gave_up = False

        async def run(self) -> None:
            raise ZeroDivisionError("a bug of ours")

        def stop(self) -> None: ...
        def hurry(self) -> None: ...

    async def scene() -> None:
        async with Supervisor(board, tmp_path / "p.json", tmp_path, asyncio.Event()) as supervisor:
            supervisor.add("faulty", Faulty())
            await supervisor.first_given_up()

    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        asyncio.run(scene())


def test_parts_are_renewed_one_after_the_other_and_told_things_meanwhile(
    run: Callable[[Scene], None], server_file: Path, free_port: int, shown: io.StringIO
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        keeper = supervisor.keep(server(server_file, free_port))
        await keeper.was_ready.wait()
        first = await pid_at(free_port)
        await supervisor.renew(["server"])
        second = await pid_at(free_port)
        assert second != first
        supervisor.tell(["server"], signal.SIGKILL)
        await until(lambda: shown.getvalue().count("ready") == 3)

    run(scene)
    assert "was asked to stop" in (server_file.with_name("stops.txt")).read_text()


def test_where_one_part_does_not_come_back_those_after_it_are_left_alone(
    run: Callable[[Scene], None], server_file: Path, free_port: int, shown: io.StringIO, tmp_path: Path
) -> None:
    async def scene(supervisor: Supervisor) -> None:
        part = server(server_file, free_port, start_timeout_s=1.0, stop_grace_s=1.0)
        first = supervisor.keep(part)
        await first.was_ready.wait()
        other = supervisor.keep(Part(name="other", argv=python("-c", "import time; time.sleep(600)")))
        await other.was_ready.wait()
        (pid,) = [child.pid for child in recorded(tmp_path / "parts.json") if child.name == "other"]
        server_file.write_text("raise SystemExit(1)")
        await supervisor.renew(["server", "other"])
        assert not first.gave_up
        assert psutil.Process(pid).status() == psutil.STATUS_SLEEPING

    run(scene)
    assert "server is not ready again, so the parts after it are left as they are" in shown.getvalue()
