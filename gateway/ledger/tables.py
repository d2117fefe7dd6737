"""The tables of the ledger, as SQLAlchemy Core metadata: the one definition that migrations, writers and
readers share.

Owns names, types, keys and indexes. Knows nothing of connections. Rows are INSERT-only, sums apart: an exchange
is written once, closed. `exchanges` and `attempts` are range-partitioned on their UUIDv7 key, which carries the
millisecond it was made in, so the key alone names the day and is unique by itself (see `ledger.partitions`).
Units are in the name: `_s` float seconds, `_usd` numeric dollars, `_tokens` counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

_TIME = DateTime(timezone=True)
_USD = Numeric(20, 9)  # nano-dollar resolution, the unit of cost in code

exchanges = Table(
    "exchanges",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),  # UUIDv7; `X-Request-Id`: "req_", then its 32 digits
    Column("started_at", _TIME, nullable=False),
    Column("caller", Text, nullable=False),  # name of the API key
    Column("endpoint", Text, nullable=False),  # e.g. /v1/chat/completions
    Column("model_asked", Text),
    Column("task_id", Text),  # as the caller gave it; belongs to the caller
    Column("workflow", Text),
    Column("shape", Text),
    Column("shape_source", Text),  # declared | rule | structural | inferred | default
    Column("policy_hash", Text),
    Column("decision", JSONB),
    Column("target", Text),  # the one that answered, or was tried last; NULL if none was tried
    Column("model", Text),  # the model that target was asked for
    Column("status", SmallInteger, nullable=False),  # HTTP status the client got; 499 if it left before one
    Column("stream", Boolean, nullable=False),
    Column("attempts", SmallInteger, nullable=False),
    Column("ttft_s", Float),  # to the first content, refusal, reasoning or tool-call delta
    Column("total_s", Float, nullable=False),
    Column("tokens_per_s", Float),  # output tokens after the first / time after the first
    Column("overhead_s", Float),  # time in the gateway itself before the first attempt was sent
    Column("input_tokens", Integer),
    Column("cached_tokens", Integer),  # part of input_tokens
    Column("cache_write_tokens", Integer),
    Column("output_tokens", Integer),
    Column("reasoning_tokens", Integer),  # part of output_tokens
    Column("cost_usd", _USD),  # sum over attempts; NULL when a price is unknown, never 0 for that reason
    Column("error_code", Text),
    Column("timed_out", Text),  # first_token | idle | total, NULL when no deadline of the policy was missed
    Column("finish_reason", Text),
    Column("response_model", Text),
    Column("cache", Text),  # hit | joined: answered without an attempt of its own
    Column("saved_usd", _USD),  # what that answer had cost when it was made
    Column("verdict", Text),  # completed | failed, by the policy's `completed_when`; NULL = its task goes on
    Index(None, "started_at"),
    Index(None, "caller", "task_id", postgresql_where=text("task_id IS NOT NULL")),
    postgresql_partition_by="RANGE (id)",
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),  # UUIDv7
    Column("exchange_id", UUID(as_uuid=True), nullable=False),
    Column("ordinal", SmallInteger, nullable=False),  # 0 = first
    Column("started_at", _TIME, nullable=False),
    Column("target", Text, nullable=False),
    Column("model", Text, nullable=False),
    # ok | timeout_first_token | timeout_idle | timeout_total | connect_error | http_error | bad_response
    # | cut_off | client_gone | busy | hedge_lost
    Column("result", Text, nullable=False),
    Column("http_status", SmallInteger),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("ttft_s", Float),
    Column("total_s", Float, nullable=False),
    Column("input_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("cache_write_tokens", Integer),
    Column("output_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column(
        "is_estimated", Boolean
    ),  # the counts are ours, since it broke off; NULL in old records: they are not
    Column("cost_usd", _USD),
    Column("price_id", Text),  # the price row used; NULL where none is known
    Column("service_tier", Text),  # words of the answer that its price depends on; NULL = an ordinary one
    Column("billed_apart", JSONB),  # what else its price depends on: cache_write_1h_tokens, web_searches, …
    Column("upstream_request_id", Text),
    Column("engine", JSONB),  # the engine's own figures: queue_s, prefill_s, decode_s, …
    Column(
        "role", Text
    ),  # shadow: sent on trial, no part of what the exchange cost; NULL = made for the call
    Index(None, "exchange_id"),
    Index(None, "started_at"),
    Index("attempts_shadow_idx", "id", postgresql_where=text("role = 'shadow'")),
    postgresql_partition_by="RANGE (id)",
)

tasks = Table(  # of several calls, named by their caller, open, or reported on (see `ledger.tasks`)
    "tasks",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("task_id", Text, primary_key=True),
    Column("workflow", Text),
    Column("first_seen_at", _TIME, nullable=False),  # its first call; before any came, its first outcome
    Column("shape", Text),  # of its first call
    Column("target", Text),  # that its first attempt was sent to
    Column("verdict", Text),  # of the call that ended last: completed | failed, NULL = it goes on
    Column("outcome", Text),  # the newest that was reported
    Column("score", Float),
    Column("outcome_at", _TIME),
    Column("silent_until", _TIME),  # then it is abandoned, if it is open still
    Column("calls", BigInteger, nullable=False, server_default="0"),
    Column("attempts", BigInteger, nullable=False, server_default="0"),
    Column("input_tokens", BigInteger, nullable=False, server_default="0"),  # of the answers
    Column("output_tokens", BigInteger, nullable=False, server_default="0"),
    Column("unpriced", BigInteger, nullable=False, server_default="0"),  # attempts whose cost is unknown
    Column(
        "cost_usd", _USD, nullable=False, server_default="0"
    ),  # of all the others: retries, hedge losers, failures
    Column(
        "spent", JSONB, nullable=False, server_default="{}"
    ),  # {target: [attempts, nano-dollars, unpriced]}
    Column(
        "status", Text, nullable=False, server_default="open"
    ),  # outcome, else verdict, else abandoned or open
    Column("counted_as", Text, nullable=False, server_default=""),  # workflow in the sums
    Column("last_at", _TIME, nullable=False, server_default=text("now()")),  # end of the call that ended last
    CheckConstraint("status IN ('open', 'completed', 'failed', 'abandoned')", name="status"),
    Index(None, "first_seen_at"),
    Index(None, "workflow", "first_seen_at", postgresql_where=text("workflow IS NOT NULL")),
    Index(None, "silent_until", postgresql_where=text("status = 'open'")),
    Index("tasks_without_calls_idx", "task_id", postgresql_where=text("calls = 0")),
)

outcomes = Table(  # the last of a task wins, all are kept
    "outcomes",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),  # UUIDv7
    Column("caller", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("reported_at", _TIME, nullable=False),
    Column("status", Text, nullable=False),
    Column("score", Float),
    Column("workflow", Text),
    CheckConstraint("status IN ('completed', 'failed', 'abandoned')", name="status"),
    CheckConstraint("score IS NULL OR (score >= 0 AND score <= 1)", name="score"),
    Index(None, "caller", "task_id", "reported_at"),
)

task_prefixes = Table(  # of calls that named no task, for some hours: what those that go on from them join
    "task_prefixes",
    metadata,
    Column("hash", Text, primary_key=True),  # of a call's messages and its caller, salted
    Column("task_id", Text, primary_key=True),
    Column("at", _TIME, nullable=False),  # end of that call
    Column("state", Text, nullable=False),  # open | failed | taken | wanted (see `ledger.joining`)
    Column("answer", Text),  # taken: hash of the messages with the answer that the next call brought along
    Index(None, "at", postgresql_using="brin"),
)

task_salt = Table("task_salt", metadata, Column("salt", LargeBinary, primary_key=True))  # one row, made once

prices = Table(  # one row per distinct price seen; a change of price is a new row
    "prices",
    metadata,
    Column("id", Text, primary_key=True),  # hash of the columns below
    Column("target", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("source", Text, nullable=False),  # config | litellm <version> | engine
    Column("input_usd_per_mtok", _USD),
    Column("cached_usd_per_mtok", _USD),
    Column("cache_write_usd_per_mtok", _USD),
    Column("output_usd_per_mtok", _USD),
    Column("usd_per_hour", _USD),  # self-hosted targets
    Column("rates", JSONB),  # all of it, where there is more: long inputs, service tiers, hours, fees
    Column("first_seen_at", _TIME, nullable=False, server_default=text("now()")),
)

# The newest row whose error is NULL is active everywhere; a refused text is kept with its error.
policies = Table(
    "policies",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),  # UUIDv7: the order of publishing
    Column("hash", Text, nullable=False),
    Column("yaml", Text, nullable=False),
    Column("source", Text, nullable=False),  # file:<host>:<path> | api:<key> | cli | rollback[:<key>]
    Column("published_at", _TIME, nullable=False, server_default=text("now()")),
    Column("error", Text),
    Index(None, "source", "id"),
)

targets = Table(  # what the running configuration says exists, replaced at each start
    "targets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("model", Text),
    Column("url", Text),
    Column("disabled_reason", Text),  # NULL when enabled
    Column("usd_per_hour", _USD),
    Column("price_note", Text),  # why costs are unknown there; NULL = they are known
    Column("updated_at", _TIME, nullable=False, server_default=text("now()")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("hash", Text, nullable=False, unique=True),  # sha256 of the whole key, hex
    Column("prefix", Text, nullable=False),  # first characters, to recognise a key in a list
    Column("scope", Text, nullable=False, server_default="call"),
    Column("created_at", _TIME, nullable=False, server_default=text("now()")),
    Column("revoked_at", _TIME),
    Column("expires_at", _TIME),
    # Limits; NULL = none
    Column("allowed_models", ARRAY(Text), nullable=False, server_default="{}"),  # shell patterns; {} = all
    Column("rpm", BigInteger),  # calls a minute
    Column("tpm", BigInteger),  # tokens a minute
    Column("parallel", BigInteger),  # calls at once
    Column("daily_usd", _USD),
    Column("monthly_usd", _USD),
    Column("tags", ARRAY(Text), nullable=False, server_default="{}"),
    CheckConstraint("scope IN ('call', 'read', 'admin')", name="scope"),
)

quota_usage = Table(  # what callers used, over all attempts of their calls: sums that the drain adds to
    "quota_usage",
    metadata,
    Column("day", Date, primary_key=True),  # UTC, of the calls' start
    Column("caller", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),  # input and output
    Column("cost_usd", _USD, nullable=False),  # of attempts whose cost is known
    Column("attempts_of_unknown_cost", BigInteger, nullable=False),
)

response_homes = Table(  # kept as long as OpenAI keeps responses (see `ledger.maintain`)
    "response_homes",
    metadata,
    Column("id", Text, primary_key=True),  # of the response, as its target named it
    Column("target", Text, nullable=False),  # which keeps it
    Column("caller", Text, nullable=False),  # whose it is
    Column("created_at", _TIME, nullable=False),
    Index(None, "created_at"),
)

engine_samples = Table(
    "engine_samples",
    metadata,
    Column("target", Text, primary_key=True),
    Column("sampled_at", _TIME, primary_key=True),
    Column("running", Integer),
    Column("waiting", Integer),
    Column("kv_used_fraction", Float),
    Column("prefill_tokens_per_s", Float),
    Column("decode_tokens_per_s", Float),
    Column("state", JSONB, nullable=False),
    Column("accepted_length", Float),  # tokens a step adds to an answer, the target's own included
)

engine_hours = Table(  # how long engines were up and what that cost: sums that the gateways' watches add to
    "engine_hours",
    metadata,
    Column("hour", _TIME, primary_key=True),  # its start
    Column("target", Text, primary_key=True),
    Column("place", Text, primary_key=True),  # one name may be several machines (see `config.places`)
    Column("up_s", Float, nullable=False),
    Column("usd", _USD),  # NULL when the price of an hour was unknown for some of it
    Column("counted_until", _TIME, nullable=False),  # so that gateways that watch the same engine count once
)

fleet_news = Table(  # what each worker learnt of targets in the last second; unlogged: a crash may take it
    "fleet_news",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("worker", UUID(as_uuid=True), nullable=False),
    Column("at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("digests", JSONB, nullable=False),
    Index(None, "at"),
    prefixes=["UNLOGGED"],
)

quota_workers = Table(  # who shares callers' limits; unlogged: each says so every second
    "quota_workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("place", Text, nullable=False),  # where it runs: one that died there is replaced, not missed
    Column("seen_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    prefixes=["UNLOGGED"],
)

quota_pools = Table(  # what is left of limits in use, and which worker holds how much of it
    "quota_pools",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("kind", Text, primary_key=True),  # requests | tokens | parallel
    Column("version", BigInteger, nullable=False),  # one more with every change
    Column("pool", JSONB, nullable=False),  # see `gateway.callers.pools`
    Column("opened_at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    Column("at", _TIME, nullable=False, server_default=text("clock_timestamp()")),
    prefixes=["UNLOGGED"],
    postgresql_with={"fillfactor": 50},
)

bench_runs = Table(
    "bench_runs",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("kind", Text, nullable=False),  # models | gateway | engine | routing
    Column("started_at", _TIME, nullable=False),
    Column("settings", JSONB, nullable=False),
    Column("results", JSONB, nullable=False),
    Index(None, "kind", "started_at"),
)


def _sums(name: str, keys: Iterable[Column[Any]], values: Iterable[Column[Any]]) -> Table:
    """Sums that the drain adds to, by the span they are of: a row of the ledger is counted in exactly one of them."""
    span = (Column("at", _TIME, primary_key=True), Column("span_s", Integer, primary_key=True))
    return Table(name, metadata, *span, *keys, *values, postgresql_with={"fillfactor": 70})


def _key(name: str, kind: type[Text] | type[Boolean] = Text) -> Column[Any]:
    return Column(name, kind, primary_key=True)  # of texts, '' = none


def _count(name: str, kind: TypeEngine[Any] | type[TypeEngine[Any]] = BigInteger) -> Column[Any]:
    return Column(name, kind, nullable=False)


_TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")

call_sums = _sums(  # of exchanges
    "call_sums",
    [_key("target"), _key("shape"), _key("endpoint"), _key("workflow")],
    [
        _count("calls"),
        _count("errors"),  # that were ours or the target's: not of clients that left
        _count("timeouts"),
        _count("client_gone"),
        _count("streamed"),
        _count("cached"),  # answered without an attempt of their own
        _count("unstreamed_long"),  # not streamed, of more than 300 output tokens
        _count("unstreamed_long_s", Float),  # what these took in all
        _count("attempts"),
        _count("retried"),  # calls of more than one attempt
        *map(_count, _TOKENS),
        _count("cost_usd", _USD),  # of calls whose cost is known
        _count("unpriced"),  # calls whose cost is not
        _count("saved_usd", _USD),
    ],
)

attempt_sums = _sums(  # of attempts, shadows included
    "attempt_sums",
    [
        _key("target"),
        _key("shape"),  # of its exchange
        _key("role"),  # of its target in the call's decision, or shadow
        _key("result"),
        _key("is_further", Boolean),  # a retry, a fallback, a hedge
    ],
    [
        _count("attempts"),
        _count("total_s", Float),
        *map(_count, _TOKENS),
        _count("cost_usd", _USD),
        _count("unpriced"),
    ],
)

choice_sums = _sums(  # of decisions, and of calls that were refused before one
    "choice_sums",
    [_key("shape"), _key("chosen"), _key("why"), _key("moved", Boolean)],  # see `ledger.rollups`
    [_count("calls")],
)

rejection_sums = _sums(  # of targets that decisions passed over
    "rejection_sums",
    [_key("shape"), _key("target"), _key("kind")],  # the reason, without its figures
    [_count("calls"), Column("example", Text, nullable=False)],  # the last reason of this kind
)

# Of tasks, in the minute they began; what changes is taken out of one row and added to another.
task_sums = _sums(
    "task_sums",
    [_key("workflow"), _key("shape"), _key("target"), _key("status")],  # target of the first attempt
    [_count("tasks"), _count("calls"), _count("attempts"), _count("cost_usd", _USD), _count("unpriced")],
)

task_costs = _sums(  # of their attempts: where the money of tasks went that ended so
    "task_costs",
    [_key("workflow"), _key("status"), _key("target")],
    [_count("attempts"), _count("cost_usd", _USD), _count("unpriced")],
)

latency_histograms = Table(  # bucket k covers (1.02^(k-1), 1.02^k] seconds; merge = add n over equal k
    "latency_histograms",
    metadata,
    Column("batch_id", UUID(as_uuid=True), primary_key=True),  # once merged, UUID(int=span_s)
    Column("minute", _TIME, primary_key=True),  # start of the span
    Column("target", Text, primary_key=True),
    Column("shape", Text, primary_key=True),
    Column("metric", Text, primary_key=True),  # ttft_s | tpot_s | total_s
    Column("span_s", Integer, nullable=False, server_default="60"),
    Column("k", ARRAY(SmallInteger), nullable=False),
    Column("n", ARRAY(Integer), nullable=False),
    Index(None, "minute"),
)
