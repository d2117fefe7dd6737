"""TCP ports: take one for the gateway, or say which process has it.

In: host and port. Out: a bound listening socket, or `PortTaken` naming the holder and the option that chooses
another port. Knows nothing of what will be served.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import psutil

_BACKLOG = 2048  # connections that wait while a worker is busy or being restarted


class PortTaken(Exception):
    """A port we need is in use, or may not be used."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on a port."""

    pid: int
    name: str
    command: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid}: {self.command})"


def listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; port 0 takes any free one. `option` is the CLI option to name in a refusal."""
    taken = _bind(host, port, option)
    taken.listen(_BACKLOG)
    taken.setblocking(False)
    return taken


def check_free(host: str, port: int, option: str) -> None:
    """Raise `PortTaken` unless a process could listen there now."""
    _bind(host, port, option).close()


def who_listens(port: int) -> Holder | None:
    """The process listening on `port`, if the system lets us know it."""
    try:
        sockets = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:  # macOS tells only root
        return None
    for entry in sockets:
        if entry.status == psutil.CONN_LISTEN and entry.laddr and entry.laddr.port == port and entry.pid:
            try:
                process = _opener(psutil.Process(entry.pid), port)
                return Holder(process.pid, process.name(), _shortened(" ".join(process.cmdline())))
            except psutil.Error:
                continue
    return None


def _opener(process: psutil.Process, port: int) -> psutil.Process:
    """Of processes that share a listening socket, the one that handed it down: the one to stop."""
    while (parent := process.parent()) is not None and _listens(parent, port):
        process = parent
    return process


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(entry.status == psutil.CONN_LISTEN and entry.laddr.port == port for entry in sockets)


def _bind(host: str, port: int, option: str) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise PortTaken(f"host {host!r} is not an address of this machine: {error.strerror}") from None
    bound = socket.socket(family, kind, proto)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
    try:
        bound.bind(address)
        bound.listen(1)  # with SO_REUSEADDR two may bind, only one may listen
    except OSError as error:
        bound.close()
        raise PortTaken(_refusal(host, port, option, error)) from None
    return bound


def _refusal(host: str, port: int, option: str, error: OSError) -> str:
    holder = who_listens(port)
    if holder is None:
        return f"port {port} on {host} cannot be used: {error.strerror}. Choose another with {option} N."
    return f"port {port} on {host} is taken by {holder}. Stop it, or choose another with {option} N."


def _shortened(command: str, limit: int = 100) -> str:
    line = " ".join(command.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
