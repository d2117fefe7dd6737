"""The SQL that makes a day of calls out of numbers: `calls`, then what the ledger keeps of them.

Every value is drawn by hashing the call's number, so the same seed gives the same rows. In: the temporary tables
`places`, `slots` and `decisions` (see `world`), and parameters: `day` (its first moment), `number` and `calls` (of the
first call, and how many), `start` and `end` of the whole load, `seed`. All of one day's statements fit one transaction.
"""

from __future__ import annotations

FUNCTIONS = """
CREATE FUNCTION pg_temp.chance(number bigint, salt int) RETURNS float8 LANGUAGE sql IMMUTABLE
RETURN CAST(hashint8extended(number, salt) & 9007199254740991 AS float8) / 9007199254740992.0;

CREATE FUNCTION pg_temp.normal(number bigint, salt int) RETURNS float8 LANGUAGE sql IMMUTABLE
RETURN sqrt(-2 * ln(1 - pg_temp.chance(number, salt))) * cos(2 * pi() * pg_temp.chance(number, salt + 500));

CREATE FUNCTION pg_temp.key(moment timestamptz, number bigint, salt int) RETURNS uuid LANGUAGE sql IMMUTABLE
RETURN CAST(lpad(to_hex(CAST(floor(extract(epoch FROM moment) * 1000) AS bigint)), 12, '0') || '7'
            || lpad(to_hex(hashint8extended(number, salt) & 4095), 3, '0') || '8'
            || lpad(to_hex(hashint8extended(number, salt + 1) & 1152921504606846975), 15, '0') AS uuid);
"""

# More calls at noon than at midnight. One workflow's tasks go on beside each other, eight at a time.
CALLS = """
CREATE TEMP TABLE calls AS
WITH numbered AS (
    SELECT number, (number - :number + pg_temp.chance(number, :seed)) / :calls AS x,
           CAST(floor(100 * pg_temp.chance(number, :seed + 1)) AS int) AS slot
    FROM generate_series(CAST(:number AS bigint), :number + :calls - 1) AS number
), timed AS (
    SELECT *, CAST(:day AS timestamptz) + make_interval(secs => 86400 * (x + sin(2 * pi() * x) / (4 * pi()))) AS at
    FROM numbered
), drawn AS (
    SELECT number, at, s.*, pg_temp.chance(number, :seed + 2) AS luck,
           pg_temp.chance(number, :seed + 3) < 0.001 AS is_refused,
           s.shape = 'classification' AND pg_temp.chance(number, :seed + 4) < 0.02 AS is_cached,
           pg_temp.chance(number, :seed + 5) < 0.02 AS is_explored,
           s.stream AND pg_temp.chance(number, :seed + 6) < 0.02 AS is_hedged,
           (number - :number) / (8 * s.task_calls * 100 / s.task_slots) * 8
               + (hashint8extended(number, :seed + 7) & 7) AS task
    FROM timed JOIN slots AS s USING (slot) WHERE at >= :start AND at < :end
), routed AS (
    SELECT *, CASE WHEN is_explored THEN ARRAY[route[2], route[1], route[3]] ELSE route END AS tried FROM drawn
), first AS (
    SELECT routed.*, input_usd AS first_input_usd, CASE
               WHEN is_refused OR is_cached THEN NULL
               WHEN is_hedged THEN 'hedge_lost'
               WHEN luck < 0.3 * failing THEN 'timeout_first_token'
               WHEN luck < 0.8 * failing THEN 'http_error'
               WHEN luck < 0.9 * failing THEN 'connect_error'
               WHEN luck < failing THEN 'busy'
               WHEN luck > 0.999 THEN 'cut_off'
               WHEN luck > 0.995 THEN 'client_gone'
               ELSE 'ok'
           END AS first_result
    FROM routed JOIN places ON name = tried[1]
), ended AS (
    SELECT *, CASE
               WHEN first_result IS NULL THEN 0
               WHEN first_result IN ('ok', 'cut_off', 'client_gone') THEN 1
               WHEN first_result = 'hedge_lost' OR pg_temp.chance(number, :seed + 8) < 0.9 THEN 2
               ELSE 3
           END AS attempts
    FROM first
), answered AS (
    SELECT *, CASE
               WHEN attempts < 2 THEN first_result
               WHEN attempts = 3 AND pg_temp.chance(number, :seed + 9) < 0.2 THEN 'http_error'
               ELSE 'ok'
           END AS last_result,
           CASE WHEN attempts < 2 THEN 0.0
               WHEN first_result = 'timeout_first_token' THEN 3.0
               ELSE 0.1 + 0.4 * pg_temp.chance(number, :seed + 10)
           END + CASE attempts WHEN 3 THEN 0.3 ELSE 0 END AS waited_s,
           CAST(greatest(3, input_tokens * exp(0.7 * pg_temp.normal(number, :seed + 11))) AS int) AS read_tokens,
           CAST(greatest(1, output_tokens * exp(0.6 * pg_temp.normal(number, :seed + 12))) AS int) AS made_tokens
    FROM ended
)
SELECT a.number, at, pg_temp.key(at, a.number, :seed) AS id, a.workflow, a.caller, a.endpoint, a.shape,
       a.shape_source, a.stream, a.tried, a.attempts, a.first_result, a.last_result, a.is_refused, a.is_cached,
       a.is_explored, a.waited_s, CAST(hashint8extended(a.number, :seed + 16) & 1023 AS int) AS variant,
       CASE WHEN a.task_calls > 1 THEN a.workflow || to_char(CAST(:day AS timestamptz), '-YYYYMMDD-') || a.task
            ELSE 'req_' || replace(CAST(pg_temp.key(at, a.number, :seed) AS text), '-', '') END AS task_id,
       a.task_calls > 1 AS is_named, a.last_result = 'ok' AND a.number % 25 <> 0 AS is_stopped,
       p.name AS target, p.model,
       CASE WHEN a.last_result IN ('ok', 'cut_off', 'client_gone') THEN read_tokens END AS input_tokens,
       CASE WHEN a.last_result IN ('ok', 'cut_off', 'client_gone') THEN made_tokens END AS output_tokens,
       p.ttft_s * exp(0.45 * pg_temp.normal(a.number, :seed + 13))
           * CASE WHEN pg_temp.chance(a.number, :seed + 14) < 0.01 THEN 4 ELSE 1 END AS first_s,
       (made_tokens - 1) / (p.tokens_per_s * exp(0.15 * pg_temp.normal(a.number, :seed + 15))) AS then_s,
       CASE WHEN p.name = 'gemini-flash' AND pg_temp.chance(a.number, :seed + 17) < 0.01 THEN NULL
            WHEN a.last_result IN ('ok', 'cut_off', 'client_gone')
            THEN CAST((read_tokens * p.input_usd + made_tokens * p.output_usd) / 1e6 AS numeric(20, 9))
            ELSE 0 END AS cost_usd,
       CASE WHEN a.first_result = 'hedge_lost'
            THEN CAST(read_tokens * first_input_usd / 1e6 AS numeric(20, 9)) ELSE 0 END AS lost_usd
FROM answered AS a LEFT JOIN places AS p ON p.name = a.tried[greatest(a.attempts, 1)] AND a.attempts > 0
"""

EXCHANGES = """
INSERT INTO exchanges (id, started_at, caller, endpoint, model_asked, task_id, workflow, shape, shape_source,
    policy_hash, decision, target, model, status, stream, attempts, ttft_s, total_s, tokens_per_s, overhead_s,
    input_tokens, cached_tokens, output_tokens, cost_usd, error_code, timed_out, finish_reason, response_model,
    cache, saved_usd, verdict)
SELECT id, at, caller, endpoint, 'auto', task_id, workflow, c.shape, shape_source, :policy_hash,
       d.decision || jsonb_build_object('draw', round(CAST(pg_temp.chance(number, :seed + 18) AS numeric), 5)),
       target, model,
       CASE WHEN is_refused THEN 400 WHEN last_result = 'http_error' THEN 502
            WHEN last_result = 'client_gone' AND number % 2 = 0 THEN 499 ELSE 200 END,
       stream, attempts,
       CASE WHEN stream AND output_tokens IS NOT NULL THEN waited_s + first_s END,
       CASE WHEN attempts = 0 THEN 0.002 WHEN output_tokens IS NULL THEN waited_s + 0.3
            ELSE waited_s + first_s + then_s END,
       CASE WHEN stream AND output_tokens >= 2 THEN (output_tokens - 1) / then_s END, 0.0006,
       input_tokens, CASE WHEN output_tokens IS NOT NULL THEN input_tokens / 2 END, output_tokens,
       CASE WHEN attempts > 0 THEN cost_usd + lost_usd ELSE 0 END,
       CASE WHEN is_refused THEN 'bad_request' WHEN last_result = 'http_error' THEN 'upstream_failed'
            WHEN last_result IN ('cut_off', 'client_gone') THEN last_result END,
       CASE first_result WHEN 'timeout_first_token' THEN 'first_token' END,
       CASE WHEN last_result = 'ok' THEN CASE WHEN is_stopped THEN 'stop' ELSE 'length' END END, model,
       CASE WHEN is_cached THEN 'hit' END, CASE WHEN is_cached THEN 0.00004 END, verdict
FROM calls AS c
CROSS JOIN LATERAL (
    SELECT CASE WHEN is_refused OR last_result = 'http_error' THEN 'failed'
                WHEN (is_stopped OR is_cached) AND NOT is_named THEN 'completed' END AS verdict
) AS told
LEFT JOIN decisions AS d
     ON NOT is_refused AND d.shape = c.shape AND d.explored = is_explored AND d.variant = c.variant % d.variants
ORDER BY id
"""

ATTEMPTS = """
INSERT INTO attempts (id, exchange_id, ordinal, started_at, target, model, result, http_status, error_code,
    error_message, ttft_s, total_s, input_tokens, cached_tokens, output_tokens, is_estimated, cost_usd, price_id,
    upstream_request_id, engine)
SELECT pg_temp.key(made.at, number, :seed + 20 + ordinal), c.id, ordinal, made.at, p.name, p.model, made.result,
       CASE made.result WHEN 'http_error' THEN 529 WHEN 'ok' THEN 200 END,
       CASE WHEN made.result NOT IN ('ok', 'hedge_lost') THEN made.result END,
       CASE made.result WHEN 'http_error' THEN 'the provider is overloaded' END,
       CASE WHEN is_last AND c.stream AND output_tokens IS NOT NULL THEN first_s END,
       CASE WHEN NOT is_last THEN waited_s / greatest(attempts - 1, 1) WHEN output_tokens IS NULL THEN 0.3
            ELSE first_s + then_s END,
       CASE WHEN is_last THEN c.input_tokens WHEN made.result = 'hedge_lost' THEN c.input_tokens END,
       CASE WHEN is_last AND output_tokens IS NOT NULL THEN c.input_tokens / 2 END,
       CASE WHEN is_last THEN c.output_tokens WHEN made.result = 'hedge_lost' THEN 0 END,
       made.result = 'client_gone',
       CASE WHEN is_last THEN c.cost_usd WHEN ordinal = 0 THEN c.lost_usd ELSE 0 END, 'price-' || p.name,
       CASE WHEN p.usd_per_hour IS NULL THEN 'chatcmpl-' || number || '-' || ordinal END,
       CASE WHEN p.name = 'engine' AND made.result = 'ok' THEN
           jsonb_build_object('queue_s', 0.0, 'prefill_s', round(CAST(first_s AS numeric), 4),
               'decode_s', round(CAST(then_s AS numeric), 4), 'rounds', output_tokens / 2,
               'drafted', 3 * output_tokens / 2, 'verified', output_tokens, 'accepted', output_tokens / 2) END
FROM calls AS c CROSS JOIN LATERAL generate_series(0, attempts - 1) AS ordinal
CROSS JOIN LATERAL (SELECT ordinal = attempts - 1 AS is_last) AS place
CROSS JOIN LATERAL (
    SELECT c.at + make_interval(secs => 0.001 + CASE WHEN ordinal = 0 THEN 0 ELSE waited_s END) AS at,
           CASE WHEN is_last THEN last_result WHEN ordinal = 0 THEN first_result ELSE 'http_error' END AS result
) AS made
JOIN places AS p ON p.name = tried[ordinal + 1]
ORDER BY 1
"""

# Most named tasks are told of how they ended; the others by their last call, or by their silence.
TASKS = """
INSERT INTO tasks (caller, task_id, workflow, first_seen_at, shape, target, verdict, outcome, score, outcome_at,
    silent_until, calls, attempts, input_tokens, output_tokens, unpriced, cost_usd, spent, status, counted_as, last_at)
WITH called AS (
    SELECT caller, task_id, min(workflow) AS workflow, min(started_at) AS first_seen_at,
           (array_agg(e.id ORDER BY id))[1] AS first_id, (array_agg(verdict ORDER BY id DESC))[1] AS verdict,
           (array_agg(shape ORDER BY id))[1] AS shape, count(*) AS calls, sum(attempts) AS attempts,
           coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(output_tokens), 0) AS output_tokens,
           max(started_at + make_interval(secs => total_s)) AS last_at
    FROM exchanges AS e WHERE id >= uuid_floor(:first) AND id < uuid_floor(:last)
    GROUP BY 1, 2
), tried AS (
    SELECT c.caller, c.task_id, a.target, count(*) AS attempts, coalesce(sum(a.cost_usd), 0) AS cost_usd,
           count(*) FILTER (WHERE a.cost_usd IS NULL) AS unpriced
    FROM calls AS c JOIN attempts AS a ON a.exchange_id = c.id
    WHERE a.id >= uuid_floor(:first) AND a.id < uuid_floor(:after)
    GROUP BY 1, 2, 3
), paid AS (
    SELECT caller, task_id, sum(cost_usd) AS cost_usd, sum(unpriced) AS unpriced,
           jsonb_object_agg(target, jsonb_build_array(
               attempts, CAST(cost_usd * 1000000000 AS bigint), unpriced)) AS spent
    FROM tried GROUP BY 1, 2
), told AS (
    SELECT *, CASE WHEN starts_with(task_id, 'req_') OR luck >= 0.9 THEN NULL WHEN luck < 0.72 THEN 'completed'
                   WHEN luck < 0.83 THEN 'failed' ELSE 'abandoned' END AS outcome,
           last_at + interval '1 hour' AS silent_until
    FROM called CROSS JOIN LATERAL (
        SELECT pg_temp.chance(hashtextextended(task_id, 0), :seed + 30) AS luck
    ) AS drawn
)
SELECT told.caller, told.task_id, told.workflow, first_seen_at, told.shape,
       CASE WHEN first.attempts > 0 THEN tried[1] END, verdict, outcome,
       CASE outcome WHEN 'completed' THEN 1 WHEN 'failed' THEN 0 END,
       CASE WHEN outcome IS NOT NULL THEN last_at + interval '2 seconds' END, silent_until, calls, told.attempts,
       told.input_tokens, told.output_tokens, coalesce(unpriced, 0), coalesce(paid.cost_usd, 0), coalesce(spent, '{}'),
       coalesce(outcome, verdict, CASE WHEN silent_until < :end THEN 'abandoned' ELSE 'open' END),
       coalesce(told.workflow, ''), last_at
FROM told JOIN calls AS first ON first.id = first_id
LEFT JOIN paid ON paid.caller = told.caller AND paid.task_id = told.task_id
"""

OUTCOMES = """
INSERT INTO outcomes (id, caller, task_id, reported_at, status, score, workflow)
SELECT pg_temp.key(outcome_at, hashtextextended(task_id, 0), :seed + 31), caller, task_id, outcome_at, outcome,
       score, workflow
FROM tasks WHERE outcome IS NOT NULL AND first_seen_at >= :first AND first_seen_at < :last
"""
