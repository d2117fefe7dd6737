"""What tasks cost and how they ended, kept with the task; their sums; and what joins a call without an id to its task.

Revision: 0008
Follows: 0007

Tasks begin with what the ledger still holds of their calls. Calls that named no task stay without one.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_USD = sa.Numeric(20, 9)
_SUMS = ("calls", "attempts", "input_tokens", "output_tokens", "unpriced")

_SUMS_OF_CALLS = """
WITH called AS (
    SELECT caller, task_id, count(*) AS calls, sum(attempts) AS attempts, min(started_at) AS first_at,
        max(started_at + make_interval(secs => total_s)) AS last_at,
        coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
        (array_agg(shape ORDER BY started_at))[1] AS shape,
        (array_agg(id ORDER BY started_at))[1] AS first_call
    FROM exchanges WHERE task_id IS NOT NULL GROUP BY caller, task_id
), tried AS (
    SELECT call.caller, call.task_id, try.target, count(*) AS attempts,
        coalesce(sum(try.cost_usd), 0) AS cost_usd, count(*) FILTER (WHERE try.cost_usd IS NULL) AS unpriced
    FROM exchanges call JOIN attempts try ON try.exchange_id = call.id AND try.role IS NULL
    WHERE call.task_id IS NOT NULL GROUP BY 1, 2, 3
), spent AS (
    SELECT caller, task_id, sum(cost_usd) AS cost_usd, sum(unpriced) AS unpriced,
        jsonb_object_agg(target, jsonb_build_array(attempts, (cost_usd * 1e9)::bigint, unpriced)) AS spent
    FROM tried GROUP BY caller, task_id
)
UPDATE tasks SET calls = called.calls, attempts = called.attempts, first_seen_at = called.first_at,
    last_at = called.last_at, input_tokens = called.input_tokens, output_tokens = called.output_tokens,
    shape = called.shape, cost_usd = coalesce(spent.cost_usd, 0), unpriced = coalesce(spent.unpriced, 0),
    spent = coalesce(spent.spent, '{}'),
    target = (
        SELECT target FROM attempts WHERE exchange_id = called.first_call AND ordinal = 0 AND role IS NULL LIMIT 1
    )
FROM called LEFT JOIN spent USING (caller, task_id)
WHERE tasks.caller = called.caller AND tasks.task_id = called.task_id
"""
_OUTCOMES = """
UPDATE tasks SET outcome = newest.status, score = newest.score, outcome_at = newest.reported_at,
    workflow = coalesce(tasks.workflow, newest.workflow)
FROM (SELECT DISTINCT ON (caller, task_id) * FROM outcomes ORDER BY caller, task_id, reported_at DESC, id DESC) newest
WHERE tasks.caller = newest.caller AND tasks.task_id = newest.task_id
"""
_STATUS = """
UPDATE tasks SET status = coalesce(outcome, 'open'), counted_as = coalesce(workflow, ''),
    silent_until = last_at + interval '1 hour'
"""
_TASK_SUMS = """
INSERT INTO task_sums
SELECT date_bin('1 minute', first_seen_at, 'epoch'), 60, counted_as, coalesce(shape, ''), coalesce(target, ''), status,
    count(*), sum(calls), sum(attempts), sum(cost_usd), sum(unpriced)
FROM tasks WHERE calls > 0 GROUP BY 1, 3, 4, 5, 6
"""
_TASK_COSTS = """
INSERT INTO task_costs
SELECT date_bin('1 minute', first_seen_at, 'epoch'), 60, counted_as, status, of_target.key,
    sum((of_target.value -> 0)::bigint), sum((of_target.value -> 1)::bigint / 1e9), sum((of_target.value -> 2)::bigint)
FROM tasks, jsonb_each(spent) AS of_target GROUP BY 1, 3, 4, 5
"""

_VIEW = """
CREATE VIEW cost_per_completed_task AS
SELECT (at AT TIME ZONE 'UTC')::date AS day, workflow, shape, target,
    sum(tasks)::bigint AS tasks,
    coalesce(sum(tasks) FILTER (WHERE status = 'completed'), 0)::bigint AS completed,
    coalesce(sum(tasks) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
    coalesce(sum(tasks) FILTER (WHERE status = 'abandoned'), 0)::bigint AS abandoned,
    coalesce(sum(tasks) FILTER (WHERE status = 'open'), 0)::bigint AS open,
    sum(calls)::bigint AS calls,
    sum(attempts)::bigint AS attempts,
    sum(cost_usd) AS cost_usd,
    sum(unpriced)::bigint AS unpriced,
    sum(cost_usd) / nullif(sum(tasks) FILTER (WHERE status = 'completed'), 0) AS usd_per_completed_task
FROM task_sums
GROUP BY 1, 2, 3, 4
HAVING sum(tasks) > 0
"""


def upgrade() -> None:
    op.execute("LOCK TABLE exchanges, attempts, tasks, outcomes IN SHARE ROW EXCLUSIVE MODE")
    op.add_column("exchanges", sa.Column("verdict", sa.Text()))
    _widen_tasks()
    _create_sums("task_sums", ("workflow", "shape", "target", "status"), ("tasks", "calls", "attempts"))
    _create_sums("task_costs", ("workflow", "status", "target"), ("attempts",))
    for statement in (_SUMS_OF_CALLS, _OUTCOMES, _STATUS, _TASK_SUMS, _TASK_COSTS):
        op.execute(statement)
    _create_prefixes()
    op.execute(_VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW cost_per_completed_task")
    for table in ("task_salt", "task_prefixes", "task_costs", "task_sums"):
        op.drop_table(table)
    op.drop_index("tasks_silent_until_idx", "tasks")
    op.drop_index("tasks_without_calls_idx", "tasks")
    op.drop_index("tasks_workflow_first_seen_at_idx", "tasks")
    op.drop_constraint("tasks_status_check", "tasks")
    for column in (
        *(
            "last_at",
            "shape",
            "target",
            *_SUMS,
            "cost_usd",
            "spent",
            "verdict",
            "outcome",
            "score",
            "outcome_at",
        ),
        *("status", "silent_until", "counted_as"),
    ):
        op.drop_column("tasks", column)
    op.drop_column("exchanges", "verdict")


def _widen_tasks() -> None:
    for name in ("shape", "target", "verdict", "outcome"):
        op.add_column("tasks", sa.Column(name, sa.Text()))
    op.add_column("tasks", sa.Column("score", sa.Float()))
    for name in ("outcome_at", "silent_until"):
        op.add_column("tasks", sa.Column(name, _TIME))
    for name in _SUMS:
        _add_filled(name, sa.BigInteger(), "0")
    _add_filled("cost_usd", _USD, "0")
    _add_filled("spent", sa.dialects.postgresql.JSONB(), "{}")
    _add_filled("status", sa.Text(), "open")
    _add_filled("counted_as", sa.Text(), "")
    op.add_column("tasks", sa.Column("last_at", _TIME, server_default=sa.func.now(), nullable=False))
    op.execute("UPDATE tasks SET last_at = first_seen_at")
    op.create_check_constraint("status", "tasks", "status IN ('open', 'completed', 'failed', 'abandoned')")
    op.create_index(
        "tasks_workflow_first_seen_at_idx",
        "tasks",
        ["workflow", "first_seen_at"],
        postgresql_where=sa.text("workflow IS NOT NULL"),
    )
    op.create_index("tasks_without_calls_idx", "tasks", ["task_id"], postgresql_where=sa.text("calls = 0"))
    op.create_index(
        "tasks_silent_until_idx", "tasks", ["silent_until"], postgresql_where=sa.text("status = 'open'")
    )


def _add_filled(name: str, kind: sa.types.TypeEngine[Any], value: str) -> None:
    op.add_column("tasks", sa.Column(name, kind, server_default=value, nullable=False))


def _create_sums(name: str, keys: tuple[str, ...], counts: tuple[str, ...]) -> None:
    op.create_table(
        name,
        sa.Column("at", _TIME, nullable=False),
        sa.Column("span_s", sa.Integer(), nullable=False),
        *(sa.Column(key, sa.Text(), nullable=False) for key in keys),
        *(sa.Column(count, sa.BigInteger(), nullable=False) for count in counts),
        sa.Column("cost_usd", _USD, nullable=False),
        sa.Column("unpriced", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("at", "span_s", *keys, name=f"{name}_pkey"),
        postgresql_with={"fillfactor": 70},
    )


def _create_prefixes() -> None:
    op.create_table(
        "task_prefixes",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text()),
        sa.PrimaryKeyConstraint("hash", "task_id", name="task_prefixes_pkey"),
    )
    op.create_index("task_prefixes_at_idx", "task_prefixes", ["at"], postgresql_using="brin")
    op.create_table(
        "task_salt",
        sa.Column("salt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("salt", name="task_salt_pkey"),
    )
    op.execute("INSERT INTO task_salt VALUES (uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))")
