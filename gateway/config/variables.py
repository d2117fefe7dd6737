"""The environment variables that processes of sparkgate read or hand to each other."""

from __future__ import annotations

DATABASE_URL_VARIABLE = "SPARKGATE_DATABASE_URL"  # stands for the file's `database_url`
API_KEY_VARIABLE = (
    "SPARKGATE_API_KEY"  # the first key; read by the supervisor and by commands that call the gateway
)
