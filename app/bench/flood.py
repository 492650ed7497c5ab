"""Honest callbacks beside a flood of forged ones: how much longer they take, and whether the database hears of it."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from app.bench.seed import imagine
from app.bench.stage import Stage, signed

_HONEST = 200  # a second
_FLOOD = {"rate": 5000.0}  # a second
_ADDRESSES = 2000
_MARGIN_S = 10.0  # by which the flood could outlast it; it is ended sooner
# When each of the service's connections ran its last statement; ours is not among them.
_LAST_STATEMENTS = """
SELECT count(*) FILTER (WHERE query_start > $1) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def flood(stage: Stage) -> dict[str, float]:
    """5,000 a second at addresses with a token that was made up, beside 200 honest ones a second."""
    seconds = 2 * stage.seconds
    quiet = stage.at_rate(_HONEST, seconds)
    honest = signed(stage.ours.seed(int(_HONEST * seconds * 1.2) + 50))
    requests = [each.misaddressed() for each in imagine(stage.ours.keys, _ADDRESSES)]
    touched = Touched(stage.ours.url)
    stage.drive.run(stage.ours.port, stage.ours.pid, requests, stage.seconds, **_FLOOD, repeat=True, grace_s=0.5)
    statements = touched.count()
    with stage.drive.start(stage.ours.port, requests, seconds + _MARGIN_S, **_FLOOD, repeat=True) as running:
        running.await_first()
        beside = stage.deliver(honest, seconds, rate=_HONEST)
        forged = running.finish()
    return {
        "quiet_p99_ms": quiet.ms(0.99),
        "flood_p99_ms": beside.ms(0.99),
        "flood_times_p99": beside.ms(0.99) / quiet.ms(0.99),
        "flood_statements": statements,
        "flood_rate": forged.rate,
        "flood_refused": forged.counts[404],
    }


class Touched:
    """Whether the service used its database since this was made.

    On PostgreSQL `count` gives the connections that ran any statement; on SQLite, where reading leaves no trace, 1
    when anything was written.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = self._look()

    def count(self) -> int:
        if self._url.startswith("sqlite:"):
            return int(self._look() != self._before)
        return int(asyncio.run(self._ask(_LAST_STATEMENTS, self._before)))

    def _look(self) -> Any:
        if not self._url.startswith("sqlite:"):
            return asyncio.run(self._ask("SELECT clock_timestamp()"))
        log = Path(self._url.removeprefix("sqlite:///") + "-wal").stat()
        return log.st_mtime_ns, log.st_size

    async def _ask(self, query: str, *args: object) -> Any:
        connection = await asyncpg.connect(self._url)
        try:
            return await connection.fetchval(query, *args)
        finally:
            await connection.close()
