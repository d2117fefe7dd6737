"""The SQL of the policies page: stored versions and their texts."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read


class Version(NamedTuple):
    """A stored version with its text."""

    id: str
    hash: str
    source: str
    published_at: datetime
    error: str | None
    yaml: str


_ALL = "SELECT id::text AS id, hash, source, published_at, error, yaml FROM policies"


def versions(ledger: Engine, limit: int) -> pd.DataFrame:
    """Newest first, refused ones too: id, hash, source, published_at, error, is_active."""
    return read(
        ledger,
        """SELECT id::text AS id, hash, source, published_at, error, id IS NOT DISTINCT FROM (
               SELECT id FROM policies WHERE error IS NULL ORDER BY id DESC LIMIT 1) AS is_active
           FROM policies ORDER BY id DESC LIMIT :limit""",
        limit=limit,
    )


def in_force(ledger: Engine) -> Version | None:
    """The newest version without an error."""
    return _only(read(ledger, f"{_ALL} WHERE error IS NULL ORDER BY id DESC LIMIT 1"))


def version(ledger: Engine, version_id: str) -> Version | None:
    return _only(read(ledger, f"{_ALL} WHERE id = CAST(:id AS uuid)", id=version_id))


def _only(found: pd.DataFrame) -> Version | None:
    return None if found.empty else Version(*found.iloc[0])
