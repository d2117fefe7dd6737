"""The SQL that sums a loaded day up as the drain would have: the tables that the dashboard reads.

In: the temporary table `calls` (see `calls`) and the day's rows; `first` and `last`, the day's moments, and the moments
of `limits`, from which on spans are that short.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from gateway.ledger.compaction import HISTOGRAM_LEVELS, SUM_LEVELS
from router.histogram import GAMMA

_LEVELS = {"sums": SUM_LEVELS, "histograms": HISTOGRAM_LEVELS}


def limits(end: datetime) -> dict[str, datetime]:
    """For each kind of sums and length of a span the moment from which on there are finer ones."""
    found = {}
    for kind, levels in _LEVELS.items():
        for span_s, age in levels:
            before_s = (end - age).timestamp()
            found[f"{kind}_{span_s}"] = datetime.fromtimestamp(before_s - before_s % span_s, UTC)
    return found


def _binned(moment: str, kind: str = "sums") -> str:
    """Gives the columns `binned.at` and `span_s` of a moment's span."""
    coarsest_first = [
        f"WHEN {moment} < :{kind}_{span_s} THEN {span_s}" for span_s, _ in reversed(_LEVELS[kind])
    ]
    return f"""CROSS JOIN LATERAL (SELECT CASE {" ".join(coarsest_first)} ELSE 60 END AS span_s) AS span
CROSS JOIN LATERAL (SELECT date_bin(make_interval(secs => span_s), {moment}, 'epoch') AS at) AS binned"""


CALL_SUMS = f"""
INSERT INTO call_sums (at, span_s, target, shape, endpoint, workflow, calls, errors, timeouts, client_gone, streamed,
    cached, unstreamed_long, unstreamed_long_s, attempts, retried, input_tokens, cached_tokens, cache_write_tokens,
    output_tokens, reasoning_tokens, cost_usd, unpriced, saved_usd)
SELECT binned.at, span_s, coalesce(target, ''), coalesce(shape, ''), endpoint, coalesce(workflow, ''), count(*),
       count(*) FILTER (WHERE status <> 499 AND error_code IS DISTINCT FROM 'client_gone'
                        AND (status >= 400 OR error_code IS NOT NULL)),
       count(timed_out), count(*) FILTER (WHERE status = 499 OR error_code = 'client_gone'),
       count(*) FILTER (WHERE stream), count(cache),
       count(*) FILTER (WHERE NOT stream AND output_tokens > 300),
       coalesce(sum(total_s) FILTER (WHERE NOT stream AND output_tokens > 300), 0), sum(attempts),
       count(*) FILTER (WHERE attempts > 1),
       coalesce(sum(input_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(cache_write_tokens), 0),
       coalesce(sum(output_tokens), 0), coalesce(sum(reasoning_tokens), 0),
       coalesce(sum(cost_usd), 0), count(*) FILTER (WHERE cost_usd IS NULL), coalesce(sum(saved_usd), 0)
FROM exchanges {_binned("started_at")}
WHERE id >= uuid_floor(:first) AND id < uuid_floor(:last)
GROUP BY 1, 2, 3, 4, 5, 6
"""

ATTEMPT_SUMS = f"""
INSERT INTO attempt_sums AS sums (at, span_s, target, shape, role, result, is_further, attempts, input_tokens,
    cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, total_s, cost_usd, unpriced)
SELECT binned.at, span_s, a.target, c.shape, coalesce(d.roles ->> a.target, ''), a.result, ordinal > 0, count(*),
       coalesce(sum(a.input_tokens), 0), coalesce(sum(cached_tokens), 0), coalesce(sum(cache_write_tokens), 0),
       coalesce(sum(a.output_tokens), 0), coalesce(sum(reasoning_tokens), 0), sum(total_s),
       coalesce(sum(a.cost_usd), 0), count(*) FILTER (WHERE a.cost_usd IS NULL)
FROM calls AS c JOIN attempts AS a ON a.exchange_id = c.id
LEFT JOIN decisions AS d ON d.shape = c.shape AND d.explored = is_explored AND d.variant = c.variant % d.variants
{_binned("a.started_at")}
WHERE a.id >= uuid_floor(:first) AND a.id < uuid_floor(:after)
GROUP BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (at, span_s, target, shape, role, result, is_further) DO UPDATE SET
    attempts = sums.attempts + excluded.attempts, input_tokens = sums.input_tokens + excluded.input_tokens,
    cached_tokens = sums.cached_tokens + excluded.cached_tokens,
    output_tokens = sums.output_tokens + excluded.output_tokens, total_s = sums.total_s + excluded.total_s,
    cost_usd = sums.cost_usd + excluded.cost_usd, unpriced = sums.unpriced + excluded.unpriced
"""

CHOICE_SUMS = f"""
INSERT INTO choice_sums (at, span_s, shape, chosen, why, moved, calls)
SELECT binned.at, span_s, c.shape, CASE WHEN is_refused THEN '' ELSE tried[1] END,
       CASE WHEN is_refused THEN 'refused' ELSE d.why END,
       target IS DISTINCT FROM CASE WHEN NOT is_refused THEN tried[1] END, count(*)
FROM calls AS c
LEFT JOIN decisions AS d ON d.shape = c.shape AND d.explored = is_explored AND d.variant = c.variant % d.variants
{_binned("c.at")}
GROUP BY 1, 2, 3, 4, 5, 6
"""

REJECTION_SUMS = f"""
INSERT INTO rejection_sums (at, span_s, shape, target, kind, example, calls)
SELECT binned.at, span_s, c.shape, passed ->> 'target',
       regexp_replace(passed ->> 'reason', '[0-9]+([.][0-9]+)?', '…', 'g'), max(passed ->> 'reason'), count(*)
FROM calls AS c
JOIN decisions AS d ON NOT is_refused AND d.shape = c.shape AND d.explored = is_explored
    AND d.variant = c.variant % d.variants
CROSS JOIN LATERAL jsonb_array_elements(d.decision -> 'rejections') AS passed
{_binned("c.at")}
GROUP BY 1, 2, 3, 4, 5
"""

HISTOGRAMS = f"""
INSERT INTO latency_histograms (batch_id, minute, target, shape, metric, span_s, k, n)
SELECT CAST(lpad(to_hex(span_s), 32, '0') AS uuid), at, target, shape, metric, span_s,
       array_agg(k ORDER BY k), array_agg(n ORDER BY k)
FROM (
    SELECT binned.at, target, coalesce(shape, 'general') AS shape, metric, span_s,
           CAST(ceil(ln(seconds) / {math.log(GAMMA)!r} - 1e-9) AS smallint) AS k, CAST(count(*) AS int) AS n
    FROM exchanges {_binned("started_at", "histograms")}
    CROSS JOIN LATERAL (VALUES
        ('ttft_s', CASE WHEN stream THEN ttft_s END),
        ('tpot_s', CASE WHEN stream AND output_tokens >= 2 AND total_s > ttft_s
                        THEN (total_s - ttft_s) / (output_tokens - 1) END),
        ('total_s', CASE WHEN status = 200 AND error_code IS NULL THEN total_s END)) AS each (metric, seconds)
    WHERE id >= uuid_floor(:first) AND id < uuid_floor(:last) AND target IS NOT NULL AND seconds > 0
    GROUP BY 1, 2, 3, 4, 5, 6
) AS cells
GROUP BY at, target, shape, metric, span_s
"""

TASK_SUMS = f"""
INSERT INTO task_sums (at, span_s, workflow, shape, target, status, tasks, calls, attempts, cost_usd, unpriced)
SELECT binned.at, span_s, counted_as, coalesce(shape, ''), coalesce(target, ''), status, count(*), sum(calls),
       sum(attempts), sum(cost_usd), sum(unpriced)
FROM tasks {_binned("first_seen_at")}
WHERE first_seen_at >= :first AND first_seen_at < :last
GROUP BY 1, 2, 3, 4, 5, 6
"""

TASK_COSTS = f"""
INSERT INTO task_costs (at, span_s, workflow, status, target, attempts, cost_usd, unpriced)
SELECT binned.at, span_s, counted_as, status, spent.key, sum(CAST(spent.value -> 0 AS bigint)),
       sum(CAST(spent.value -> 1 AS numeric)) / 1000000000, sum(CAST(spent.value -> 2 AS bigint))
FROM tasks CROSS JOIN LATERAL jsonb_each(tasks.spent) AS spent {_binned("first_seen_at")}
WHERE first_seen_at >= :first AND first_seen_at < :last
GROUP BY 1, 2, 3, 4, 5
"""

OF_A_DAY = (CALL_SUMS, ATTEMPT_SUMS, CHOICE_SUMS, REJECTION_SUMS, HISTOGRAMS, TASK_SUMS, TASK_COSTS)
