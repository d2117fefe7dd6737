"""docker-compose.yml as it stands: every service's command, user, environment and health check, on a read-only root.

The engine, which loads for as long as all the others together, is among them in `make test-compose`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gateway.ledger.data_directory import binaries_folder
from tests.system.containers import Containers, missing
from tests.system.product import READY, new_data_dir

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(missing() is not None, reason=f"no containers can be had here: {missing()}"),
]

WITH_ENGINE = "SPARKGATE_COMPOSE_ENGINE" in os.environ
SERVERS = ["postgres", "gateway", "dashboard", *(["engine"] if WITH_ENGINE else [])]
KEY = "sg-of-the-compose-test"
VALUES = {
    "POSTGRES_PASSWORD": "ownersword",
    "READER_PASSWORD": "readersword",
    "SPARKGATE_API_KEY": KEY,
    "SPARKGATE_ENGINE_KEY": "between-gateway-and-engine",
}
# What the image's entry point does with a new volume, and with one that it finds.
POSTGRES = """
export PGDATA=/var/lib/postgresql/18/docker
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  mkdir -p -m 700 "$PGDATA"
  printf %s "$POSTGRES_PASSWORD" > /tmp/password
  initdb -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \\
    --encoding=UTF8 --locale=C --no-sync -D "$PGDATA"
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -D "$PGDATA" postgres
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
"""
ASK = """
import json, sys, urllib.error, urllib.request
body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
headers = {"Authorization": "Bearer " + sys.argv[1], "Content-Type": "application/json"}
call = urllib.request.Request("http://gateway:8080/v1/chat/completions", json.dumps(body).encode(), headers)
try:
    answer = urllib.request.urlopen(call, timeout=120)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, json.load(answer)]))
"""
AS_THE_DASHBOARD = """
import os, psycopg, time
with psycopg.connect(os.environ["SPARKGATE_DATABASE_URL"], autocommit=True) as connection:
    while not connection.execute("SELECT count(*) FROM exchanges").fetchone()[0]:
        time.sleep(0.1)
    print(*connection.execute("SELECT current_user, status FROM exchanges").fetchone())
    connection.execute("SET default_transaction_read_only = off")
    try:
        connection.execute("DELETE FROM exchanges")
    except psycopg.Error as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def containers() -> Iterator[Containers]:
    stand_ins = {"postgres": (["sh", "-euc", POSTGRES], binaries_folder())}
    made = Containers(VALUES, stand_ins, profile="cpu" if WITH_ENGINE else "none")
    fetched = new_data_dir(with_model=WITH_ENGINE)
    try:
        made.fill_volume("engine-data", fetched)
        for name in made.order():
            for earlier, how in made.services[name].get("depends_on", {}).items():
                made.await_condition(earlier, how["condition"])
            made.start(name)
        for name in SERVERS:
            made.await_condition(name, "service_healthy")
        made.await_output("gateway", READY)  # a new first key is known to the workers a little later
        yield made
    finally:
        made.remove()
        shutil.rmtree(fetched)


def test_a_call_is_recorded_and_read_by_the_dashboards_role(containers: Containers) -> None:
    called = containers.run_in("dashboard", ["python", "-c", ASK, KEY])
    status, body = json.loads(called.stdout)
    if WITH_ENGINE:
        assert status == 200, body
        assert body["usage"]["completion_tokens"] > 0
    else:
        assert status == 502, body  # it knows the engine, and finds none
    read = containers.run_in("dashboard", ["python", "-c", AS_THE_DASHBOARD])
    rows = [f"sparkgate_reader {status}", "InsufficientPrivilege"]
    assert read.stdout.decode().splitlines() == rows, read.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_a_service_has_no_rights_and_writes_only_where_it_may(containers: Containers, name: str) -> None:
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{containers.pid(name)}/status").read_text().splitlines()
    )
    assert "0" not in status["Uid"].split()
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for path in ("/x", "/usr/x", "/etc/sparkgate/x"):
        assert b"Read-only file system" in containers.run_in(name, ["touch", path]).stderr
    assert containers.run_in(name, ["touch", f"{containers.services[name]['tmpfs'][0]}/x"]).returncode == 0


def test_no_secret_is_in_a_command_line(containers: Containers) -> None:
    for name in SERVERS:
        process = psutil.Process(containers.pid(name))
        for each in [process, *process.children(recursive=True)]:
            words = " ".join(each.cmdline())
            assert not [value for value in VALUES.values() if value in words], words


def test_all_stop_in_time_and_leave_nothing_in_the_spool(containers: Containers) -> None:
    for name in reversed(SERVERS):
        ended = (0, -signal.SIGTERM) if name == "dashboard" else (0,)  # Streamlit's own way
        assert containers.stop(name) in ended, containers.output(name)
    spool = containers.volume("gateway-data") / "spool"
    assert [path.name for path in spool.iterdir() if path.suffix in (".open", ".ready")] == []
