"""The ledger's errors. Each message says what was wrong, where, and what to do about it."""

from __future__ import annotations


class LedgerError(Exception):
    """Base of everything the ledger raises on purpose."""


class EmbeddedPostgresError(LedgerError):
    """The embedded Postgres could not be started or stopped; the tail of its log is in the message."""


class DatabaseUrlError(LedgerError):
    """`database_url` cannot be used as it is."""


class DatabaseAway(LedgerError):
    """The database could not be asked, or did not answer in the time that a call has."""


class LedgerFull(LedgerError):
    """The spool could not take a record: its limit is reached or the disk refused the write."""
