"""How long a task's request to the provider takes, beside what the provider itself takes for its answer."""

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

_TASKS = 24  # as many as the provider has in hand at once
_ALONE = 20  # orders to the twin alone: below its slots
_MOST_S = 30.0
# 1 KB. The twin ends what is named so with an error: no image is made, nothing else is measured.
_PROMPT = "this one is to fail, whatever becomes of it; " * 22


def dispatch(stage: Stage) -> dict[str, float]:
    """From just before the provider was asked to its answer, as the record has it, and the twin asked alone."""
    headers = {"x-key": "another-account", "content-type": "application/json", "accept": "*/*"}
    order = request("POST", "/v1/flux-kontext-pro", headers, json.dumps({"prompt": _PROMPT}).encode())
    with played(stage, "dispatch") as both:
        alone = stage.drive.run(both.twin.port, both.twin.pid, [order] * _ALONE, _MOST_S, connections=1)
        both.until_all("failed", [{"prompt": _PROMPT}] * _TASKS)
        took = asyncio.run(_answer_times_ms(both.service.url))
    return {
        "dispatch_p50_ms": percentile(took, 0.5),
        "dispatch_p99_ms": percentile(took, 0.99),
        "twin_answer_p50_ms": alone.ms(0.5),
        "twin_answer_p99_ms": alone.ms(0.99),
    }


async def _answer_times_ms(url: str) -> list[float]:
    query = select(attempts.c.sent_at, attempts.c.answered_at).where(attempts.c.answered_at.is_not(None))

    def read(connection: Connection) -> list[float]:
        return [
            (answered_at - sent_at) / timedelta(milliseconds=1) for sent_at, answered_at in connection.execute(query)
        ]

    async with open_database(url) as database:
        return await database.read(read)
