"""How long a submission to the provider takes, compared with the provider's own response time."""

import asyncio
import json
from datetime import timedelta

from sqlalchemy import select

from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables.attempts import attempts
from benchmarks.figures import percentile
from benchmarks.played import played
from benchmarks.stage import Stage
from benchmarks.wire import request

_TASKS = 24  # the provider's number of slots
_DIRECT = 20  # requests sent directly to the twin: below its number of slots
_MAX_S = 60.0
# 1 KB. The word "fail" makes the twin end the task with an error, so it makes no image during the measurement.
_PROMPT = "this one is to fail, whatever becomes of it; " * 22


def dispatch(stage: Stage) -> dict[str, float]:
    """Measure from `sent_at` to `answered_at` of each attempt, and the twin's response time to direct requests."""
    headers = {"x-key": "another-account", "content-type": "application/json", "accept": "*/*"}
    submission = request("POST", "/v1/flux-kontext-pro", headers, json.dumps({"prompt": _PROMPT}).encode())
    with played(stage, "dispatch") as both:
        direct = stage.drive.run(both.twin.port, both.twin.pid, [submission] * _DIRECT, _MAX_S, connections=1)
        both.until_all("failed", [{"prompt": _PROMPT}] * _TASKS)
        latencies = asyncio.run(_answer_times_ms(both.service.url))
    return {
        "dispatch_p50_ms": percentile(latencies, 0.5),
        "dispatch_p99_ms": percentile(latencies, 0.99),
        "twin_answer_p50_ms": direct.ms(0.5),
        "twin_answer_p99_ms": direct.ms(0.99),
    }


async def _answer_times_ms(url: str) -> list[float]:
    query = select(attempts.c.sent_at, attempts.c.answered_at).where(attempts.c.answered_at.is_not(None))

    def read(connection: Connection) -> list[float]:
        return [
            (answered_at - sent_at) / timedelta(milliseconds=1) for sent_at, answered_at in connection.execute(query)
        ]

    async with open_database(url) as database:
        return await database.read(read)
