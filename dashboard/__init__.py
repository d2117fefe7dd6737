"""The operator's dashboard: SQL in, charts out. Reads Postgres and writes nothing there; policies are changed through
the gateway's admin API. Imports nothing of the gateway.
"""
