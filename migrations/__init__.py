"""Alembic's environment and the ledger's revisions. Of ours it knows `gateway.ledger.tables` only."""
