"""The environment variables that processes of sparkgate read or hand to each other."""

from __future__ import annotations

DATABASE_URL_VARIABLE = "SPARKGATE_DATABASE_URL"  # stands for the file's `database_url`
GATEWAY_URL_VARIABLE = "SPARKGATE_URL"  # told the dashboard: where apps, and it, reach the gateway
SIGN_IN_VARIABLE = "SPARKGATE_SIGN_IN"  # told the dashboard: `dashboard.sign_in`
API_KEY_VARIABLE = "SPARKGATE_API_KEY"  # the first key; also what commands call the gateway with
ENGINE_KEY_VARIABLE = "SPARKGATE_ENGINE_KEY"  # sent to targets of kind engine, which ask for it if told to
METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
TELEMETRY_VARIABLE = "SPARKGATE_TELEMETRY"  # what the drain is told of OpenTelemetry; made by the supervisor
