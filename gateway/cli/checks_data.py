"""`doctor`'s checks of the data directory: disk, spool, the first key's file, the parts that run, the model's files.

In: the directory, settings, a database if it answers. Out: `Check`s. Only looks.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from gateway.config.variables import API_KEY_VARIABLE
from gateway.supervise.orphans import recorded

if TYPE_CHECKING:
    from sqlalchemy import Connection

State = Literal["ok", "note", "wrong"]
BUNDLED_MODEL = "smollm2-135m-instruct"
SCARCE_MB = 200  # below this Postgres itself is in danger
_MB = 1_000_000


class Check(NamedTuple):
    """What was looked at, how it is, and in words what to do about it."""

    name: str
    state: State
    finding: str


def folder(data_dir: Path) -> Check:
    """Writable, or can be made: the nearest folder that exists decides."""
    path = data_dir.resolve()
    nearest = _nearest(path)
    if not nearest.is_dir():
        return Check("data directory", "wrong", f"{nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        hint = "choose another with --data-dir"
        return Check("data directory", "wrong", f"{nearest} cannot be written to; {hint}")
    made = "" if nearest == path else " (made at the first start)"
    return Check("data directory", "ok", f"{path}{made}")


def disk(data_dir: Path, max_spool_mb: int, free_bytes: int | None = None) -> Check:
    """Whether the spool can grow to its limit, as it does while the database is away."""
    free_mb = (
        shutil.disk_usage(_nearest(data_dir.resolve())).free if free_bytes is None else free_bytes
    ) // _MB
    if free_mb < SCARCE_MB:
        return Check("disk", "wrong", f"{free_mb} MB are free; make room, or choose another --data-dir")
    if free_mb < max_spool_mb:
        hint = f"the spool may take {max_spool_mb} MB: make room, or set ledger.max_spool_mb lower"
        return Check("disk", "note", f"{free_mb} MB are free, and {hint}")
    return Check("disk", "ok", f"{free_mb:,} MB are free")


def spool(data_dir: Path, max_spool_mb: int) -> list[Check]:
    """What waits on its way to the database, and what was refused by it."""
    directory = data_dir / "spool"
    if not directory.is_dir():
        return []
    waiting_mb = sum(path.stat().st_size for path in directory.iterdir() if path.is_file()) / _MB
    found = [Check("spool", "ok", f"{waiting_mb:.1f} MB wait for the database")]
    hint = "does the database answer, and does the drain run (logs/drain.log)?"
    if waiting_mb >= max_spool_mb:
        found = [Check("spool", "wrong", f"full with {waiting_mb:.0f} MB: new calls are refused; {hint}")]
    elif waiting_mb > max_spool_mb / 10:
        found = [
            Check("spool", "note", f"{waiting_mb:.0f} of {max_spool_mb} MB wait for the database; {hint}")
        ]
    aside = directory / "quarantine"
    files = list(aside.iterdir()) if aside.is_dir() else []
    if files:
        said = f"{len(files)} files of records that the database refused, each with its reason"
        found.append(Check("spool", "note", f"{aside} has {said}"))
    return found


def parts(data_dir: Path, workers: int) -> list[Check]:
    """Those of a running `sparkgate up`; or what a killed one left behind."""
    run = data_dir / "run"
    known = recorded(run / "parts.json")
    alive = [part.name for part in known if part.process() is not None]
    if not _is_held(run / "up.lock"):
        left = [
            Check(
                "parts",
                "note",
                f"left over from a killed start: {', '.join(alive)}; `sparkgate up` ends them",
            )
        ]
        return left if alive else []
    wanted = ["gateway"] if workers == 1 else [f"gateway-{index}" for index in range(workers)]
    missing = [name for name in [*wanted, "drain"] if name not in alive]
    missing += [part.name for part in known if part.name not in [*alive, *missing]]
    if missing:
        logs = ", ".join(str(data_dir / "logs" / f"{name}.log") for name in missing)
        return [Check("parts", "wrong", f"not running: {', '.join(missing)}; why, is at the end of {logs}")]
    return [Check("parts", "ok", ", ".join(alive))]


def first_key(data_dir: Path, connection: Connection | None) -> list[Check]:
    """Whether someone can still call: the key that the first start made is shown once, and kept in a file."""
    if os.environ.get(API_KEY_VARIABLE):
        return []
    make = "`sparkgate keys create NAME --scope admin` makes another"
    file = data_dir / "run" / "first_key"
    try:
        key = file.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        key = None
    except OSError as error:
        return [Check("first key", "note", f"{file} cannot be read: {error.strerror}")]
    if connection is None:
        was_started = (data_dir / "pg").is_dir()
        return [Check("first key", "note", f"{file} is gone; {make}")] if was_started and key is None else []
    in_force = _hashes(connection)
    if not in_force:
        return [Check("first key", "note", f"no key is in force; {make}")]
    if key is None:
        return [Check("first key", "note", f"it is not in {file}; whoever has lost it: {make}")]
    if hashlib.sha256(key.encode()).hexdigest() not in in_force:
        return [Check("first key", "note", f"the one in {file} is not in force in this database; {make}")]
    return [Check("first key", "ok", str(file))]


def model(name: str, data_dir: Path) -> Check:
    """The engine's: absent, or with files that cannot be whole."""
    given = Path(name).expanduser()
    path = given if given.is_dir() else data_dir / "models" / name.replace("/", "--")
    if not (path / "config.json").is_file():
        if path == given:
            return Check("model", "wrong", f"{path} has no config.json; is it a model's folder?")
        size = " (98 MB)" if name == BUNDLED_MODEL else ""
        return Check("model", "note", f"{name} is fetched at the first start{size}")
    if fault := _fault(path):
        hint = (
            "fetch or copy it again" if path == given else "remove the folder, and the next start fetches it"
        )
        return Check("model", "wrong", f"{fault}; {hint}")
    return Check("model", "ok", f"{name} is {'there' if path == given else 'in the data directory'}")


def _fault(path: Path) -> str | None:
    """What is broken in a model's folder, as far as lengths and JSON tell."""
    for file in sorted(path.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except ValueError:
            return f"{file} is no JSON"
    weights = sorted([*path.glob("*.safetensors"), *path.glob("*.gguf"), *path.glob("*.bin")])
    if not weights:
        return f"{path} has no weights"
    return next((f"{file} is cut short or damaged" for file in weights if not _is_whole(file)), None)


def _is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its head says: eight bytes of the head's length, then JSON."""
    if file.suffix != ".safetensors":
        return file.stat().st_size > 0
    with file.open("rb") as weights:
        length = weights.read(8)
        head_bytes = struct.unpack("<Q", length)[0] if len(length) == 8 else 0
        if not 0 < head_bytes < file.stat().st_size:
            return False
        try:
            head = json.loads(weights.read(head_bytes))
            ends = [tensor["data_offsets"][1] for name, tensor in head.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False
    return file.stat().st_size == 8 + head_bytes + max(ends, default=0)


def _hashes(connection: Connection) -> set[str]:
    from sqlalchemy import text

    now = "SELECT hash FROM api_keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
    return set(connection.scalars(text(now)))


def _is_held(lock: Path) -> bool:
    """Whether a supervisor holds it now; one that was killed does not."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _nearest(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
