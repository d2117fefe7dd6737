"""`Containers`: services of docker-compose.yml as an engine of containers would run them, without one.

In: the compose file, values for its variables, and what stands for images that are not ours. Out: for each service a
process with the command, environment, user, volumes, tmpfs, read-only root, capabilities and host names that the file
gives it, made with Linux's own namespaces; its health check runs in the same place. Our images are stood for by this
checkout and its virtual environment, read only, with the environment and the user that the Dockerfile gives them.
All services share one loopback, apart from the machine's. Not looked at: networks, limits of memory, restarts.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("unshare", "nsenter", "setpriv", "mount", "ip")
_PRIVATE_MOUNTS = ("unshare", "--mount", "--propagation", "private")
_PATIENCE_S = 120.0
_OWN_USER = "10001:10001"


def missing() -> str | None:
    """Why no containers can be had here; None when they can."""
    if os.geteuid() != 0:
        return "only root may make namespaces with users of their own"
    if not Path("/lib64").is_symlink():
        return "/lib64 is no link into /usr"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent:
        return f"there is no {', '.join(absent)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], check=False
    )
    return "the system refuses namespaces" if tried.returncode else None


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """`${NAME:?…}` and `${NAME:-default}` as Compose replaces them. KeyError for one that must be set."""

    def value(found: re.Match[str]) -> str:
        name, operator, rest = found.groups()
        if operator == ":?" and not values.get(name):
            raise KeyError(name)
        return values.get(name) or (rest if operator == ":-" else "")

    return re.sub(r"\$\{([A-Z_]+)(?:(:[?-])([^}]*))?\}", value, text)


def image_environment() -> dict[str, str]:
    """What the Dockerfile's base stage sets, with our virtual environment in the place of the image's."""
    text = (ROOT / "docker" / "Dockerfile").read_text().partition("AS source")[0]
    pairs = re.findall(r"(\w+)=(\S+)", "".join(re.findall(r"^ENV (.*)", text, re.MULTILINE)))
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    own = Path(sys.executable).parent
    return {name: value.replace("/venv/bin", str(own)).replace("$PATH", system) for name, value in pairs}


class Containers:
    """`stand_ins`: by service, the command that stands for its image's entry point, and the folder of its programs."""

    def __init__(
        self, values: Mapping[str, str], stand_ins: Mapping[str, tuple[list[str], Path]], profile: str
    ) -> None:
        text = interpolated((ROOT / "docker-compose.yml").read_text(), values)
        self.services: dict[str, dict[str, Any]] = {
            name: service
            for name, service in yaml.safe_load(text)["services"].items()
            if profile in service.get("profiles", [profile])
        }
        self.folder = Path(tempfile.mkdtemp(prefix="sparkgate-compose-"))
        self.folder.chmod(0o755)
        self._stand_ins = stand_ins
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._network = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._network.stdout is not None
        assert self._network.stdout.readline() == b"up\n"
        hosts = " ".join(self.services)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost {hosts}\n")

    def volume(self, name: str) -> Path:
        """Where a named volume's files lie."""
        return self.folder / "volumes" / name

    def fill_volume(self, name: str, folder: Path) -> None:
        """Give a new volume of ours a folder's files: hard links, as they may be large and are only read."""
        shutil.copytree(folder, self.volume(name), copy_function=_link_readable)
        for path in self.volume(name).rglob("*"):
            if path.is_dir():
                os.chown(path, *map(int, _OWN_USER.split(":")))

    def output(self, service: str) -> str:
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def pid(self, service: str) -> int:
        return self._running[service].pid

    def order(self) -> list[str]:
        """The services, each after those it depends on."""
        names: list[str] = []
        while len(names) < len(self.services):
            names += [
                name
                for name, service in self.services.items()
                if name not in names and set(service.get("depends_on", {})) <= set(names)
            ]
        return names

    def start(self, name: str) -> None:
        service = self.services[name]
        root = self.folder / name
        root.mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [*self._in_network(), *_PRIVATE_MOUNTS, "sh", "-euc", self._script(name, service, root)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def await_condition(self, name: str, condition: str) -> None:
        """As `depends_on` has it: service_healthy or service_completed_successfully."""
        if condition == "service_completed_successfully":
            assert self._running[name].wait(_PATIENCE_S) == 0, self.output(name)
            return
        deadline = time.monotonic() + _PATIENCE_S
        while self.check_health(name) != 0:
            assert self._running[name].poll() is None, f"{name} ended:\n{self.output(name)}"
            assert time.monotonic() < deadline, f"{name} is not healthy:\n{self.output(name)}"
            time.sleep(0.1)

    def await_output(self, name: str, text: str) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while text not in self.output(name):
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.output(name)}"
            time.sleep(0.1)

    def check_health(self, name: str) -> int:
        """The exit code of one run of the service's health check."""
        service = self.services[name]
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run_in(name, command).returncode

    def run_in(self, name: str, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        """`docker compose exec`: as the service's user, in its file system, with its environment."""
        entry = ["nsenter", f"--target={self.pid(name)}", "--mount", "--net", "--root", "--wd=/"]
        return subprocess.run([*entry, *self._as_user(name), *command], capture_output=True, check=False)

    def stop(self, name: str) -> int:
        """`docker compose stop`: SIGTERM (SIGINT to Postgres, as its image says), within the grace period."""
        service, process = self.services[name], self._running[name]
        process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
        return process.wait(float(service.get("stop_grace_period", "10s").removesuffix("s")))

    def remove(self) -> None:
        for process in reversed(self._running.values()):
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()
        self._network.kill()
        self._network.communicate()
        shutil.rmtree(self.folder)

    def _in_network(self) -> list[str]:
        return ["nsenter", f"--target={self._network.pid}", "--net"]

    def _as_user(self, name: str) -> list[str]:
        """The words before a command: its user, what it may not do, and its environment."""
        service = self.services[name]
        user, group = service.get("user", _OWN_USER).split(":")
        words = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        assert service["cap_drop"] == ["ALL"]
        words += ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        words += ["--no-new-privs", "env", "-i"]
        environment = image_environment() | service.get("environment", {})
        if name in self._stand_ins:
            programs = self._stand_ins[name][1]
            environment["PATH"] = f"{programs}:{environment['PATH']}"
        return [*words, *(f"{key}={value}" for key, value in environment.items())]

    def _script(self, name: str, service: dict[str, Any], root: Path) -> str:
        """A shell's steps from an empty folder to the service's process, which takes the shell's place."""
        uid, gid = service.get("user", _OWN_USER).split(":")
        steps = [f"mount -t tmpfs -o mode=755 root {root}", f"mkdir {root}/etc {root}/proc {root}/dev"]
        steps += [f"ln -s usr/{folder} {root}/{folder}" for folder in ("bin", "sbin", "lib", "lib64")]
        steps += [f"cp -a /etc/ssl /etc/ld.so.cache /etc/nsswitch.conf {root}/etc/"]
        steps += [f"cp {self.folder}/hosts {root}/etc/hosts"]
        steps += [f"echo {name}:x:{uid}:{gid}::/tmp:/bin/sh > {root}/etc/passwd"]
        steps += [f"mount --rbind /{folder} {root}/{folder}" for folder in ("proc", "dev")]
        steps += _mounted(Path("/usr"), f"{root}/usr", read_only=True)
        steps += [f"mkdir -p {root}/etc/sparkgate {root}/data"]
        for volume in service.get("volumes", []):
            source, inside, *mode = volume.split(":")
            folder = ROOT / source if source.startswith(".") else self._new_volume(source, int(uid), int(gid))
            steps += _mounted(folder, f"{root}{inside}", read_only="ro" in mode)
        for entry in service.get("tmpfs", []):
            inside, _, options = entry.partition(":")
            options = f"noexec,nosuid,nodev,{options or 'mode=1777'}"
            steps += [f"mkdir -p {root}{inside}", f"mount -t tmpfs -o {options} tmpfs {root}{inside}"]
        for folder in (ROOT, Path(sys.base_prefix)):  # after /tmp, in which they may lie
            if not folder.is_relative_to("/usr"):
                steps += _mounted(folder, f"{root}{folder}", read_only=True)
        assert service["read_only"] is True
        steps += [f"mount -o remount,ro {root}"]
        words = [*self._as_user(name), "sh", "-c", 'cd /etc/sparkgate && exec "$@"', name]
        words += self._stand_ins[name][0] if name in self._stand_ins else service["command"]
        return "\n".join([*steps, f"exec chroot {root} {shlex.join(words)}"])

    def _new_volume(self, name: str, uid: int, gid: int) -> Path:
        """It takes over the owner that the folder has in the image."""
        folder = self.volume(name)
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, uid, gid)
        return folder


def _link_readable(source: str, target: str) -> None:
    if Path(source).stat().st_mode & 0o004:
        os.link(source, target)
    else:
        Path(shutil.copyfile(source, target)).chmod(0o644)


def _mounted(folder: Path, at: str, *, read_only: bool) -> list[str]:
    steps = [f"mkdir -p {at}", f"mount --bind {folder} {at}"]
    return [*steps, f"mount -o remount,bind,ro {at}"] if read_only else steps
