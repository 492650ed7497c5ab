"""Download many large results at once."""

import asyncio

from sqlalchemy import func, select

from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables.results import results
from app.db.tables.tasks import tasks
from benchmarks.played import played
from benchmarks.processes import memory_mb, reset_peak
from benchmarks.stage import Stage

_TASKS = 24  # the provider's number of slots


def collect(stage: Stage) -> dict[str, float]:
    """Collect 24 images of 5 MB at once, which the twin made in advance."""
    posts = [{"prompt": f"picture {number} of many"} for number in range(_TASKS)]
    with played(stage, "collect") as both:
        reset_peak(both.service.pid)
        before = memory_mb(both.service.pid)
        both.until_all("stored", posts)
        peak = memory_mb(both.service.pid, "VmHWM")
        seconds, mean_bytes = asyncio.run(_collection(both.service.url))
    return {"collect_s": seconds, "collect_image_mb": mean_bytes / 2**20, "collect_peak_mb": peak - before}


async def _collection(url: str) -> tuple[float, float]:
    """Return the seconds from the first known result to the last stored image, and the mean image size in bytes."""
    query = select(
        func.min(tasks.c.ready_at).label("first"),
        func.max(tasks.c.stored_at).label("last"),
        func.avg(results.c.bytes).label("bytes"),
    ).join(results, results.c.task_id == tasks.c.id)

    def read(connection: Connection) -> tuple[float, float]:
        row = connection.execute(query).one()
        return (row.last - row.first).total_seconds(), float(row.bytes)

    async with open_database(url) as database:
        return await database.read(read)
