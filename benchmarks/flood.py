"""Honest callbacks beside a flood of forged ones: how much longer they take, and whether the database hears of it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from benchmarks.drive import Outcome
from benchmarks.seed import imagine
from benchmarks.stage import Stage, signed
from benchmarks.stored import forgeries

_HONEST = 200  # a second
_FLOOD = {"rate": 5000.0}  # a second
_TOKENS = 2000  # that were made up
_ADDRESSES = 200  # that are right
_MARGIN_S = 10.0  # by which the flood could outlast it; it is ended sooner
# When each of the service's connections ran its last statement; ours is not among them.
_LAST_STATEMENTS = """
SELECT count(*) FILTER (WHERE query_start > $1) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def flood(stage: Stage) -> dict[str, float]:
    """Two floods in turn, each beside 200 honest callbacks a second: made-up tokens, and wrong signatures."""
    seconds = 2 * stage.seconds
    quiet = stage.at_rate(_HONEST, seconds).ms(0.99)
    misaddressed = [each.misaddressed() for each in imagine(stage.ours.keys, _TOKENS)]
    found = _beside(stage, misaddressed, seconds)
    # At addresses that exist: the first few of each are kept, and a few a second of all.
    signatures = _beside(stage, [each.forged() for each in stage.ours.seed(_ADDRESSES)], seconds)
    return {
        "quiet_p99_ms": quiet,
        "flood_p99_ms": found.p99_ms,
        "flood_times_p99": found.p99_ms / quiet,
        "flood_statements": found.touched,
        "flood_rate": found.forged.rate,
        "flood_refused": found.forged.counts[404],
        "signature_flood_p99_ms": signatures.p99_ms,
        "signature_flood_times_p99": signatures.p99_ms / quiet,
        "signature_flood_kept": signatures.kept,
        "signature_flood_rate": signatures.forged.rate,
        "signature_flood_refused": signatures.forged.counts[401],
    }


@dataclass(frozen=True, slots=True)
class Beside:
    """What one flood did: to the honest callbacks' p99, and to the database while it came alone."""

    p99_ms: float
    touched: int  # see Touched
    kept: int  # of the flood alone
    forged: Outcome


def _beside(stage: Stage, requests: list[bytes], seconds: float) -> Beside:
    """The flood alone, then with honest callbacks."""
    honest = signed(stage.ours.seed(int(_HONEST * seconds * 1.2) + 50))
    touched, before = Touched(stage.ours.url), stage.ours.count(forgeries)
    stage.drive.run(stage.ours.port, stage.ours.pid, requests, stage.seconds, **_FLOOD, repeat=True, grace_s=0.5)
    statements, kept = touched.count(), stage.ours.count(forgeries) - before
    with stage.drive.start(stage.ours.port, requests, seconds + _MARGIN_S, **_FLOOD, repeat=True) as running:
        running.await_first()
        beside = stage.deliver(honest, seconds, rate=_HONEST)
        forged = running.finish()
    return Beside(beside.ms(0.99), statements, kept, forged)


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
