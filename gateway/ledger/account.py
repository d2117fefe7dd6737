"""The system account the embedded Postgres runs as, and the way it reaches its files.

Postgres refuses to run as root, so under root its processes run as the account `pgserver`, which is made when
absent; otherwise they run as ourselves. Knows nothing of Postgres itself. In: paths. Out: arguments for
subprocess.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ledger.errors import EmbeddedPostgresError

log = logging.getLogger(__name__)
NAME = "pgserver"


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server. `switch` is true when that is not the user of this process."""

    uid: int
    gid: int
    switch: bool

    def subprocess_arguments(self) -> dict[str, Any]:
        """What makes `subprocess.run` run a child as this account, free of PG* settings."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        arguments: dict[str, Any] = {"cwd": "/", "env": environment}
        if self.switch:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def give(self, path: Path, mode: int) -> None:
        """Make `path` this account's own."""
        path.chmod(mode)
        if self.switch:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        entry = _add_account()
    return Account(entry.pw_uid, entry.pw_gid, switch=True)


def _add_account() -> pwd.struct_passwd:
    try:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", NAME],
            check=True,
            capture_output=True,
        )
        return pwd.getpwnam(NAME)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise EmbeddedPostgresError(
            f"Postgres does not run as root, and the account '{NAME}' could not be added ({error}). "
            "Run as another user, or set database_url to a Postgres of yours."
        ) from error


def let_through(path: Path) -> None:
    """Give others search permission (o+x, not o+r) on every folder above `path` that lacks it."""
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            log.info("letting the database account pass through %s", folder)
            folder.chmod(mode | stat.S_IXOTH)


def make_readable(tree: Path) -> None:
    """Give others read permission on a whole tree, and execute where the owner has it."""
    for path in [tree, *tree.rglob("*")]:
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
