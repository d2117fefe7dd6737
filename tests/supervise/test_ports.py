"""Ports: free ones are taken, taken ones are named with their process."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from gateway.supervise.ports import PortTaken, check_free, listen, who_listens


def test_a_free_port_can_be_checked_and_then_listened_on(free_port: int) -> None:
    check_free("127.0.0.1", free_port, "--port")
    with listen("127.0.0.1", free_port, "--port") as taken:
        assert taken.getsockname()[1] == free_port
        socket.create_connection(("127.0.0.1", free_port)).close()


def test_port_0_takes_any_free_one() -> None:
    with listen("127.0.0.1", 0, "--port") as first, listen("127.0.0.1", 0, "--port") as second:
        assert first.getsockname()[1] != second.getsockname()[1]


def test_a_taken_port_is_refused_with_the_name_and_pid_of_its_holder(free_port: int) -> None:
    with listen("127.0.0.1", free_port, "--port"):
        with pytest.raises(PortTaken) as refusal:
            check_free("127.0.0.1", free_port, "--engine-port")
        holder = who_listens(free_port)
    assert holder is not None
    assert (holder.pid, holder.name) == (os.getpid(), psutil.Process().name())
    message = str(refusal.value)
    assert f"port {free_port} on 127.0.0.1 is taken by {holder.name} (pid {os.getpid()}" in message
    assert "--engine-port N" in message


def test_a_port_whose_last_connection_lingers_is_free(free_port: int) -> None:
    with listen("127.0.0.1", free_port, "--port") as server:
        server.setblocking(True)
        client = socket.create_connection(("127.0.0.1", free_port))
        accepted, _ = server.accept()
        accepted.close()  # the server closes first, so its side waits in TIME_WAIT
        client.close()
    check_free("127.0.0.1", free_port, "--port")


def test_a_host_that_is_no_address_of_this_machine_is_refused() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1"):
        check_free("192.0.2.1", 0, "--port")


def test_nobody_listens_on_a_free_port(free_port: int) -> None:
    assert who_listens(free_port) is None
