"""The operator's dashboard: SQL in, charts out. Reads Postgres, imports nothing of the gateway, writes
nothing.
"""
