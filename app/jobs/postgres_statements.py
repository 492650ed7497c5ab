"""The statements of the job engine on PostgreSQL, beside those of PgQueuer.

They contain the states as literals, because PgQueuer's indexes are partial.
"""

# One statement, which writes each row once. PgQueuer's own enqueue also writes its log, which is not read here, and
# would need a second statement for the time. The rows are sorted by key, so that two transactions that enqueue the
# same jobs do not deadlock. A row that is inserted and not updated has no xmax.
ENQUEUE = """
INSERT INTO pgqueuer AS job
    (entrypoint, payload, dedupe_key, execute_after, priority, status, queue_manager_id, heartbeat)
SELECT new.step, convert_to(new.task_id, 'UTF8'), new.key, new.run_at, least(greatest($5 - extract(epoch FROM
    coalesce((SELECT sample_expires_at FROM tasks WHERE id = new.task_id), new.run_at)), -2147483648), 2147483647),
    (CASE WHEN new.claimed THEN 'picked' ELSE 'queued' END)::pgqueuer_status, CASE WHEN new.claimed THEN $7::uuid END,
    now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $6::boolean[])
    AS new (key, step, task_id, run_at, claimed)
ON CONFLICT (dedupe_key) WHERE status IN ('queued', 'picked') AND dedupe_key IS NOT NULL DO UPDATE
SET execute_after = CASE job.status
        WHEN 'queued' THEN least(job.execute_after, excluded.execute_after) ELSE job.execute_after END,
    priority = greatest(job.priority, excluded.priority),
    headers = CASE job.status
        WHEN 'picked' THEN
            jsonb_build_object('again', least((job.headers ->> 'again')::timestamptz, excluded.execute_after))
        ELSE job.headers END
RETURNING id, entrypoint, convert_from(payload, 'UTF8') AS task_id, xmax = 0 AND status = 'picked' AS claimed
"""
# Locked in the order of `enqueue`.
DROP = """
DELETE FROM pgqueuer WHERE id IN (SELECT id FROM pgqueuer WHERE status = 'queued' AND dedupe_key = ANY ($1::text[])
    ORDER BY dedupe_key COLLATE "C" FOR UPDATE)
"""
NEXT_DUE = """
SELECT least(
    (SELECT min(first.at) FROM unnest($1::text[]) AS step (name) CROSS JOIN LATERAL (
        SELECT execute_after AS at FROM pgqueuer WHERE entrypoint = step.name AND status = 'queued'
        ORDER BY execute_after LIMIT 1) AS first),
    (SELECT heartbeat + $2::interval FROM pgqueuer WHERE status = 'picked' ORDER BY heartbeat LIMIT 1))
"""
COUNT_DUE = """
SELECT step.name,
    (SELECT count(*) FROM (
        SELECT FROM pgqueuer WHERE entrypoint = step.name AND status = 'queued' AND execute_after < now()
        ORDER BY execute_after LIMIT step.most) AS due)
    + (SELECT count(*) FROM (
        SELECT FROM pgqueuer WHERE entrypoint = step.name AND status = 'picked' AND heartbeat < now() - $3::interval
        LIMIT step.most) AS lapsed)
    AS due
FROM unnest($1::text[], $2::int[]) AS step (name, most)
"""
# PgQueuer's own statement waits for rows while it has locked others. A transaction that ends a job has locked other
# jobs before, in the order of its work, so the two would deadlock.
HEARTBEAT = """
UPDATE pgqueuer SET heartbeat = now()
WHERE id IN (SELECT id FROM pgqueuer WHERE id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED)
RETURNING id
"""
HEARTBEAT_OF_LOCKED = "UPDATE pgqueuer SET heartbeat = now() WHERE id = $1"
LOCK_OWN = """
SELECT headers FROM pgqueuer WHERE id = $1 AND status = 'picked' AND queue_manager_id = $2 FOR UPDATE
"""
# A job that was enqueued again while it ran stays, to be put back. PgQueuer's own statement also writes its log.
FINISH = """
DELETE FROM pgqueuer WHERE id = $1 AND status = 'picked' AND queue_manager_id = $2
    AND (headers IS NULL OR NOT headers ? 'again') RETURNING id
"""
# Its priority is that of its new time: with the old one it would always come before all other jobs.
PUT_BACK = """
UPDATE pgqueuer
SET status = 'queued', execute_after = $2, attempts = $3, headers = $4::jsonb, queue_manager_id = NULL, updated = now(),
    priority = least(greatest($5 - extract(epoch FROM coalesce(
        (SELECT sample_expires_at FROM tasks WHERE id = $6), $2)), -2147483648), 2147483647)
WHERE id = $1
"""
SET_FAILURE = "UPDATE pgqueuer SET attempts = $2, headers = $3::jsonb WHERE id = $1"
RELEASE = """
UPDATE pgqueuer
SET status = 'queued', headers = NULL, queue_manager_id = NULL, updated = now()
WHERE queue_manager_id = $1 AND status = 'picked' AND id <> ALL ($2::bigint[])
"""
DEAD_LETTERS = """
SELECT id, entrypoint, convert_from(payload, 'UTF8') AS task_id, attempts, headers
FROM pgqueuer WHERE status = 'failed' ORDER BY id LIMIT $1
"""
COUNT_DEAD_LETTERS = "SELECT count(*) FROM pgqueuer WHERE status = 'failed'"
TAKE_DEAD_LETTERS = """
DELETE FROM pgqueuer WHERE status = 'failed' AND id = ANY ($1::bigint[])
RETURNING entrypoint, convert_from(payload, 'UTF8') AS task_id
"""
SCHEDULED = """
SELECT dedupe_key FROM pgqueuer WHERE status IN ('queued', 'picked') AND dedupe_key = ANY ($1::text[])
UNION SELECT dedupe_key FROM pgqueuer WHERE status = 'failed' AND dedupe_key = ANY ($1::text[])
"""
# A running job that was enqueued again has the time of its next run in its headers.
PLANNED = """
SELECT entrypoint, execute_after, status::text AS status, attempts FROM pgqueuer
WHERE status IN ('queued', 'picked') AND dedupe_key = ANY ($1::text[])
UNION ALL SELECT entrypoint, (headers->>'again')::timestamptz, 'queued', 0 FROM pgqueuer
WHERE status = 'picked' AND headers ? 'again' AND dedupe_key = ANY ($1::text[])
UNION ALL SELECT entrypoint, execute_after, status::text, attempts FROM pgqueuer
WHERE status = 'failed' AND dedupe_key = ANY ($1::text[])
ORDER BY 2, 1, 3
"""
BACKLOGS = """
SELECT entrypoint, count(*) AS waiting, count(*) FILTER (WHERE execute_after <= $1) AS due,
    min(execute_after) FILTER (WHERE execute_after <= $1) AS oldest_due
FROM pgqueuer WHERE status = 'queued' GROUP BY entrypoint
"""
OVERDUE = """
SELECT EXISTS (SELECT FROM pgqueuer WHERE entrypoint = $1 AND status = 'queued' AND execute_after <= $2)
    OR EXISTS (SELECT FROM pgqueuer WHERE entrypoint = $1 AND status = 'picked')
"""
PRUNE = "DELETE FROM pgqueuer_log WHERE created < $1"
