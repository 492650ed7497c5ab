"""SQL that generates finished tasks, as after months of operation; the two engines differ only in a few expressions.

All values derive from a task's number, so a database is filled in batches, and each batch by the server itself. The
first statement writes the ids and times of a batch to the temporary table `made`; the others insert the rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

EVENTS_S = 7 * 86400  # older events are pruned from the feed
_DIGITS = "0123456789abcdefghijklmnopqrstuv"  # base32hex
_PROMPT = "Replace the sky of picture ' || n || ' by an evening with thin clouds, and keep the people as they are."
_LINK = "https://delivery-eu1.bfl.ai/results/' || mark || '/sample.png?se=2026-01-01T12%3A10%3A02Z&sp=r&sv=2024-11-04"
_HEADERS = (
    '{"host": "fluxhook.example.com", "content-type": "application/json", "content-length": "588", '
    '"x-bfl-signature": "sha256=\' || digest || \'"}'
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The expressions in which the engines differ; each function takes SQL and returns SQL."""

    series: Callable[[int, int], str]  # the numbers from first to last, inclusive, as the column n
    instant: Callable[[str], str]  # from microseconds since 1970
    hexed: Callable[[str], str]  # 32 bits as eight hexadecimal digits
    body: Callable[[str], str]
    json: Callable[[str], str]
    no_xid: int  # a transaction id before all others


POSTGRES = Dialect(
    lambda first, last: f"SELECT n FROM generate_series({first}::bigint, {last}) AS series (n)",
    lambda us: f"to_timestamp(({us}) / 1000000.0)",
    lambda number: f"lpad(to_hex({number}), 8, '0')",
    lambda text: f"convert_to({text}, 'UTF8')",
    lambda text: f"({text})::jsonb",
    no_xid=1,
)
SQLITE = Dialect(
    lambda first, last: (
        f"WITH RECURSIVE series (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM series WHERE n < {last}) "
        "SELECT n FROM series"
    ),
    lambda us: f"strftime('%Y-%m-%d %H:%M:%S', ({us}) / 1000000, 'unixepoch') || printf('.%06d', ({us}) % 1000000)",
    lambda number: f"printf('%08x', {number})",
    lambda text: f"CAST({text} AS BLOB)",
    lambda text: text,
    no_xid=0,
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks `first` to `last`; each task is created `step_us` microseconds (an even number) after the previous one."""

    first: int
    last: int
    start_us: int
    step_us: int
    events_from_us: int


def statements(dialect: Dialect, batch: Batch) -> list[str]:
    """Return the statements of one batch, in order. Run them in one transaction: `made` is a temporary table."""
    return ["DROP TABLE IF EXISTS made", _made(dialect, batch), *_rows(dialect, batch)]


def _made(dialect: Dialect, batch: Batch) -> str:
    hashed = "n * 2654435761 % 4294967296"
    numbered = f"SELECT n, {batch.start_us} + n * {batch.step_us} AS us, ({hashed}) / 4096 AS h FROM ({{}}) AS each"
    inner = numbered.format(dialect.series(batch.first, batch.last))
    ready, ended = "us + 8000000", "us + 9200000"
    return f"""
        CREATE TEMPORARY TABLE made AS
        SELECT n, us, h, born, later, mark, 'task_' || born || mark || '00' AS task_id,
            'sub_' || born || mark || '02' AS first_id,
            CASE WHEN h % 20 = 0 AND h % 100 <> 99 THEN 'sub_' || born || mark || '04' END AS second_id,
            CASE h % 100 WHEN 99 THEN 'cancelled' WHEN 98 THEN 'failed' WHEN 97 THEN 'failed' ELSE 'stored' END
                AS status,
            'key_' || '000000000000000000000000000000000000' || (h % 5) AS key_id,
            CASE WHEN h % 4 = 3 THEN 'flux-kontext-max' ELSE 'flux-kontext-pro' END AS model,
            mark || mark || '0000000000000000' AS digest,
            {dialect.instant("us")} AS created_at, {dialect.instant("us + 500000")} AS submitted_at,
            {dialect.instant(ready)} AS ready_at, {dialect.instant(ended)} AS ended_at
        FROM (SELECT n, us, h, {_head("us")} AS born, {_head(ended)} AS later, {_mark(dialect)} AS mark
            FROM ({inner}) AS numbered) AS named"""


def _head(us: str) -> str:
    """Return the start of an id: 55 bits of the time. The 56th bit is 0, so hexadecimal digits may follow."""
    places = (f"CAST(((({us}) >> {5 * place + 1}) & 31) + 1 AS integer)" for place in range(10, -1, -1))
    return " || ".join(f"substr('{_DIGITS}', {place}, 1)" for place in places)


def _mark(dialect: Dialect) -> str:
    """Return 24 digits unique to a task: the factors are odd, so each part alone is unique among 2**32 tasks."""
    return " || ".join(dialect.hexed(f"n * {odd} % 4294967296") for odd in (2246822519, 3266489917, 668265263))


def _rows(dialect: Dialect, batch: Batch) -> list[str]:
    return [
        _tasks(dialect),
        _submissions("first_id", 1, "second_id IS NOT NULL"),
        _submissions("second_id", 2, "0 = 1"),
        *_evidence(dialect),
        """INSERT INTO results
           (task_id, store_key, sha256, media_type, bytes, width, height, stored_at, unverified_image)
           SELECT task_id, 'results/' || substr(digest, 1, 2) || '/' || digest || '.png', digest, 'image/png',
               1400000 + n % 100000, 1024, 1024, ended_at, NULL FROM made WHERE status = 'stored'""",
        """INSERT INTO downloads
           SELECT 'dl_' || later || mark || '00', task_id, 'stored', NULL, ready_at, ended_at
           FROM made WHERE status = 'stored'""",
        *_deliveries(dialect),
        _events(dialect, batch),
    ]


def _tasks(dialect: Dialect) -> str:
    request = dialect.json(
        f"""'{{"prompt": "{_PROMPT}", "seed": null, "aspect_ratio": "1:1", "output_format": "png",
        "prompt_upsampling": false, "safety_tolerance": 2, "images": []}}'"""
    )
    return f"""
        INSERT INTO tasks (id, key_id, provider, account_id, model, status, failure, failure_detail, money_spent,
            request, warnings, priority, dispatch_after_at, submission_id, tries, cost, seed, sample_url,
            sample_expires_at, created_at, submitting_at, submitted_at, ready_at, stored_at, failed_at, cancelled_at,
            notify_url, notify_form, notify_events)
        SELECT task_id, key_id, 'bfl', 'bfl:0123456789ab', model, status,
            CASE status WHEN 'failed' THEN 'content_moderated' END, CASE status WHEN 'failed' THEN 'moderated' END,
            CASE status WHEN 'failed' THEN 'maybe' END, {request}, {dialect.json("'[]'")}, 0, created_at,
            coalesce(second_id, first_id), 0, CASE WHEN status <> 'cancelled' THEN 4.0 END,
            CASE status WHEN 'stored' THEN CAST(h AS text) END, CASE status WHEN 'stored' THEN '{_LINK}' END,
            CASE status WHEN 'stored' THEN {dialect.instant("us + 608000000")} END,
            created_at, CASE WHEN status <> 'cancelled' THEN created_at END,
            CASE WHEN status <> 'cancelled' THEN submitted_at END, CASE status WHEN 'stored' THEN ready_at END,
            CASE status WHEN 'stored' THEN ended_at END, CASE status WHEN 'failed' THEN ended_at END,
            CASE status WHEN 'cancelled' THEN ended_at END,
            CASE WHEN n % 20 = 1 THEN 'https://app.example.com/hooks/' || (h % 5) END,
            CASE WHEN n % 20 = 1 THEN 'event' END, CASE WHEN n % 20 = 1 THEN {dialect.json("'[]'")} END
        FROM made"""


def _submissions(attempt: str, number: int, refused: str) -> str:
    return f"""
        INSERT INTO submissions (id, task_id, number, provider, ring_key, outcome, called_back, provider_id,
            polling_url, cost, planned_at, asked_at, answered_at)
        SELECT {attempt}, task_id, {number}, 'bfl', '0b780f8cb964',
            CASE WHEN status = 'cancelled' THEN 'planned' WHEN {refused} THEN 'refused' ELSE 'accepted' END,
            status <> 'cancelled', CASE WHEN status = 'cancelled' OR {refused} THEN NULL ELSE mark END,
            CASE WHEN status = 'cancelled' OR {refused} THEN NULL
                ELSE 'https://api.eu1.bfl.ai/v1/get_result?id=' || mark END,
            CASE WHEN status = 'cancelled' OR {refused} THEN NULL ELSE 4.0 END,
            created_at, CASE WHEN status <> 'cancelled' THEN created_at END,
            CASE WHEN status <> 'cancelled' THEN submitted_at END
        FROM made WHERE {attempt} IS NOT NULL"""


def _evidence(dialect: Dialect) -> list[str]:
    answer = (
        """'{"id": "' || mark || '", "polling_url": "https://api.eu1.bfl.ai/v1/get_result?id=' || mark || '", """
        '"cost": 4.0, "input_mp": 0.0, "output_mp": 1.0}\''
    )
    ready = f"""'{{"id": "' || mark || '", "status": "Ready", "result": {{"sample": "{_LINK}&sr=b&rsct=image%2Fpng&sig='
        || digest || '", "prompt": "{_PROMPT}", "seed": ' || h || ', "start_time": 1767268800.1,
        "end_time": 1767268808.4, "duration": 8.3}}, "progress": null, "details": null, "preview": null}}'"""
    busy = """'{"detail": "Too many active tasks", "id": "' || mark || '"}'"""
    last = "coalesce(second_id, first_id)"
    reported = "CASE status WHEN 'stored' THEN 'ready' ELSE 'failed' END"
    json = '\'{"content-type": "application/json"}\''
    return [
        _evidence_rows(
            dialect, "born", "06", last, ("submit", "fetched", "'pending'", "moved", 200), "submitted_at", answer, json
        ),
        _evidence_rows(
            dialect,
            "later",
            "08",
            last,
            ("callback", "signed", reported, "moved", None),
            "ready_at",
            ready,
            _HEADERS_SQL,
        ),
        _evidence_rows(
            dialect, "later", "0a", last, ("poll", "fetched", reported, "late", 200), "ended_at", ready, json
        ),
        _evidence_rows(
            dialect, "born", "0c", "first_id", ("submit", "fetched", "'busy'", "moved", 429), "created_at", busy, json
        )
        + " AND second_id IS NOT NULL",
        _evidence_rows(
            dialect, "later", "0e", last, ("callback", "forged", "'unclear'", "rejected", None), "ready_at", busy, json
        )
        + " AND h % 50 = 5",
    ]


_HEADERS_SQL = f"'{_HEADERS}'"


def _evidence_rows(
    dialect: Dialect,
    head: str,
    end: str,
    attempt: str,
    facts: tuple[str, str, str, str, int | None],
    at: str,
    body: str,
    json: str,
) -> str:
    witness, verdict, said, effect, status = facts
    return f"""
        INSERT INTO evidence (id, submission_id, witness, verdict, digest, said, effect, http_status, headers, body,
            copies, received_at, last_received_at)
        SELECT 'ev_' || {head} || mark || '{end}', {attempt}, '{witness}', '{verdict}', digest, {said}, '{effect}',
            {"NULL" if status is None else status}, {dialect.json(json)}, {dialect.body(body)}, 1, {at}, {at}
        FROM made WHERE status <> 'cancelled'"""


def _deliveries(dialect: Dialect) -> list[str]:
    payload = dialect.json("""'{"type": "task.' || status || '", "data": {"task": {"id": "' || task_id || '"}}}'""")
    return [
        f"""INSERT INTO deliveries (id, endpoint_id, task_id, event, form, payload, state, tries, planned_at, due_at,
                ended_at)
            SELECT 'dlv_' || later || mark || '00', 'ep_' || '000000000000000000000000000000000000' || (h % 5), task_id,
                status, 'event', {payload}, CASE WHEN h % 50 = 7 THEN 'failed' ELSE 'delivered' END, 1, ended_at,
                ended_at, ended_at
            FROM made WHERE n % 20 = 1""",
        f"""INSERT INTO delivery_attempts (id, delivery_id, http_status, latency_ms, answer, began_at)
            SELECT 'att_' || later || mark || '00', 'dlv_' || later || mark || '00',
                CASE WHEN h % 50 = 7 THEN 500 ELSE 200 END, 120, {dialect.body("'ok'")}, ended_at
            FROM made WHERE n % 20 = 1""",
    ]


def _events(dialect: Dialect, batch: Batch) -> str:
    data = dialect.json("""'{"status": "' || kind || '", "failure": null}'""")
    steps = " UNION ALL ".join(
        f"SELECT {place} AS place, '{kind}' AS kind"
        for place, kind in enumerate(("queued", "submitting", "submitted", "ready", "stored", "failed", "cancelled"))
    )
    return f"""
        INSERT INTO events (xid, kind, task_id, key_id, data, at)
        SELECT {dialect.no_xid}, 'task.' || kind, task_id, key_id, {data}, ended_at
        FROM made CROSS JOIN ({steps}) AS step
        WHERE us >= {batch.events_from_us} AND (place = 0 OR kind = status OR status <> 'cancelled' AND place < 3
            OR status = 'stored' AND place = 3)
        ORDER BY n, place"""
