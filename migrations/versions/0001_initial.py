"""The first tables of the ledger, with a default partition for rows of days that have none of their own.

Revision: 0001
Follows: nothing

`uuid_floor(moment)` is the smallest UUIDv7 of a millisecond, so that `WHERE id >= uuid_floor(now() - interval
'1 hour')` reads the primary key and leaves out the partitions of other days.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_USD = sa.Numeric(20, 9)

_UUID_FLOOR = """
CREATE FUNCTION uuid_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (
    lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '70008000000000000000'
)::uuid
"""


def upgrade() -> None:
    op.execute(_UUID_FLOOR)
    _create_exchanges()
    _create_attempts()
    _create_tasks()
    _create_outcomes()
    _create_prices()
    _create_policies()
    _create_targets()
    _create_api_keys()
    _create_quota_usage()
    _create_engine_samples()
    _create_bench_runs()
    _create_latency_histograms()
    for parent in ("exchanges", "attempts"):
        op.execute(f"CREATE TABLE {parent}_default PARTITION OF {parent} DEFAULT")


def downgrade() -> None:
    for table in _TABLES:
        op.drop_table(table)  # a partitioned one takes its partitions along
    op.execute("DROP FUNCTION uuid_floor(timestamptz)")


_TABLES = (
    "exchanges",
    "attempts",
    "tasks",
    "outcomes",
    "prices",
    "policies",
    "targets",
    "api_keys",
    "quota_usage",
    "engine_samples",
    "bench_runs",
    "latency_histograms",
)


def _create_exchanges() -> None:
    op.create_table(
        "exchanges",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model_asked", sa.Text()),
        sa.Column("task_id", sa.Text()),
        sa.Column("workflow", sa.Text()),
        sa.Column("shape", sa.Text()),
        sa.Column("shape_source", sa.Text()),
        sa.Column("policy_hash", sa.Text()),
        sa.Column("decision", JSONB()),
        sa.Column("target", sa.Text()),
        sa.Column("model", sa.Text()),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("ttft_s", sa.Float()),
        sa.Column("total_s", sa.Float(), nullable=False),
        sa.Column("tokens_per_s", sa.Float()),
        sa.Column("overhead_s", sa.Float()),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("cached_tokens", sa.Integer()),
        sa.Column("cache_write_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("reasoning_tokens", sa.Integer()),
        sa.Column("cost_usd", _USD),
        sa.Column("error_code", sa.Text()),
        sa.Column("timed_out", sa.Text()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("response_model", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="exchanges_pkey"),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index(
        "exchanges_caller_task_id_idx",
        "exchanges",
        ["caller", "task_id"],
        postgresql_where=sa.text("task_id IS NOT NULL"),
    )
    op.create_index("exchanges_started_at_idx", "exchanges", ["started_at"])


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("exchange_id", sa.UUID(), nullable=False),
        sa.Column("ordinal", sa.SmallInteger(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("http_status", sa.SmallInteger()),
        sa.Column("error_code", sa.Text()),
        sa.Column("error_message", sa.Text()),
        sa.Column("ttft_s", sa.Float()),
        sa.Column("total_s", sa.Float(), nullable=False),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("cached_tokens", sa.Integer()),
        sa.Column("cache_write_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("reasoning_tokens", sa.Integer()),
        sa.Column("cost_usd", _USD),
        sa.Column("price_id", sa.Text()),
        sa.Column("upstream_request_id", sa.Text()),
        sa.Column("engine", JSONB()),
        sa.PrimaryKeyConstraint("id", name="attempts_pkey"),
        postgresql_partition_by="RANGE (id)",
    )
    op.create_index("attempts_exchange_id_idx", "attempts", ["exchange_id"])
    op.create_index("attempts_started_at_idx", "attempts", ["started_at"])


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text()),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("caller", "task_id", name="tasks_pkey"),
    )
    op.create_index("tasks_first_seen_at_idx", "tasks", ["first_seen_at"])


def _create_outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("reported_at", _TIME, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("score", sa.Float()),
        sa.Column("workflow", sa.Text()),
        sa.CheckConstraint("status IN ('completed', 'failed', 'abandoned')", name="outcomes_status_check"),
        sa.CheckConstraint("score IS NULL OR (score >= 0 AND score <= 1)", name="outcomes_score_check"),
        sa.PrimaryKeyConstraint("id", name="outcomes_pkey"),
    )
    op.create_index(
        "outcomes_caller_task_id_reported_at_idx", "outcomes", ["caller", "task_id", "reported_at"]
    )


def _create_prices() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("input_usd_per_mtok", _USD),
        sa.Column("cached_usd_per_mtok", _USD),
        sa.Column("cache_write_usd_per_mtok", _USD),
        sa.Column("output_usd_per_mtok", _USD),
        sa.Column("usd_per_hour", _USD),
        sa.Column("first_seen_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="prices_pkey"),
    )


def _create_policies() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("yaml", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("published_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="policies_pkey"),
    )
    op.create_index("policies_source_id_idx", "policies", ["source", "id"])


def _create_targets() -> None:
    op.create_table(
        "targets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("url", sa.Text()),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("usd_per_hour", _USD),
        sa.Column("updated_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="targets_pkey"),
    )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), server_default="call", nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", _TIME),
        sa.CheckConstraint("scope IN ('call', 'read', 'admin')", name="api_keys_scope_check"),
        sa.PrimaryKeyConstraint("id", name="api_keys_pkey"),
        sa.UniqueConstraint("hash", name="api_keys_hash_key"),
        sa.UniqueConstraint("name", name="api_keys_name_key"),
    )


def _create_quota_usage() -> None:
    op.create_table(
        "quota_usage",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost_usd", _USD, server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("caller", "period", name="quota_usage_pkey"),
    )


def _create_engine_samples() -> None:
    op.create_table(
        "engine_samples",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("sampled_at", _TIME, nullable=False),
        sa.Column("running", sa.Integer()),
        sa.Column("waiting", sa.Integer()),
        sa.Column("kv_used_fraction", sa.Float()),
        sa.Column("prefill_tokens_per_s", sa.Float()),
        sa.Column("decode_tokens_per_s", sa.Float()),
        sa.Column("state", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("target", "sampled_at", name="engine_samples_pkey"),
    )


def _create_bench_runs() -> None:
    op.create_table(
        "bench_runs",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("settings", JSONB(), nullable=False),
        sa.Column("results", JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="bench_runs_pkey"),
    )
    op.create_index("bench_runs_kind_started_at_idx", "bench_runs", ["kind", "started_at"])


def _create_latency_histograms() -> None:
    op.create_table(
        "latency_histograms",
        sa.Column("batch_id", sa.UUID(), nullable=False),
        sa.Column("minute", _TIME, nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("span_s", sa.Integer(), server_default="60", nullable=False),
        sa.Column("k", sa.ARRAY(sa.SmallInteger()), nullable=False),
        sa.Column("n", sa.ARRAY(sa.Integer()), nullable=False),
        sa.PrimaryKeyConstraint(
            "batch_id", "minute", "target", "shape", "metric", name="latency_histograms_pkey"
        ),
    )
    op.create_index("latency_histograms_minute_idx", "latency_histograms", ["minute"])
