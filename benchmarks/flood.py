"""Genuine callbacks during a flood of forged ones: their latency, and whether the flood reaches the database."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from benchmarks.drive import Outcome
from benchmarks.seed import imagine
from benchmarks.stage import Stage, signed
from benchmarks.stored import forgeries

_GENUINE = 200  # per second
_FLOOD = {"rate": 5000.0}  # per second
_TOKENS = 2000  # invented tokens
_ADDRESSES = 200  # valid addresses
_MARGIN_S = 10.0  # the flood may run this much longer, but is stopped sooner
# Counts the service's connections that ran a statement since $1; excludes the connection of this query.
_LAST_STATEMENTS = """
SELECT count(*) FILTER (WHERE query_start > $1) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def flood(stage: Stage) -> dict[str, float]:
    """Run two floods, invented tokens and wrong signatures, each with 200 genuine callbacks per second."""
    seconds = 2 * stage.seconds
    quiet = stage.at_rate(_GENUINE, seconds).ms(0.99)
    misaddressed = [callback.misaddressed() for callback in imagine(stage.ours.keys, _TOKENS)]
    tokens = _flooded(stage, misaddressed, seconds)
    # At valid addresses the service stores the first few forgeries of each attempt, and a few per second in total.
    signatures = _flooded(stage, [callback.forged() for callback in stage.ours.seed(_ADDRESSES)], seconds)
    return {
        "quiet_p99_ms": quiet,
        "flood_p99_ms": tokens.p99_ms,
        "flood_times_p99": tokens.p99_ms / quiet,
        "flood_statements": tokens.connections,
        "flood_rate": tokens.forged.rate,
        "flood_refused": tokens.forged.counts[404],
        "signature_flood_p99_ms": signatures.p99_ms,
        "signature_flood_times_p99": signatures.p99_ms / quiet,
        "signature_flood_kept": signatures.kept,
        "signature_flood_rate": signatures.forged.rate,
        "signature_flood_refused": signatures.forged.counts[401],
    }


@dataclass(frozen=True, slots=True)
class Flooded:
    """The effect of one flood: on the p99 of genuine callbacks, and on the database during the flood alone."""

    p99_ms: float
    connections: int  # see DatabaseUse
    kept: int  # forgeries stored during the flood alone
    forged: Outcome


def _flooded(stage: Stage, requests: list[bytes], seconds: float) -> Flooded:
    """Run the flood alone, then with genuine callbacks."""
    genuine = signed(stage.ours.seed(int(_GENUINE * seconds * 1.2) + 50))
    use, before = DatabaseUse(stage.ours.url), stage.ours.count(forgeries)
    stage.drive.run(stage.ours.port, stage.ours.pid, requests, stage.seconds, **_FLOOD, repeat=True, grace_s=0.5)
    connections, kept = use.count(), stage.ours.count(forgeries) - before
    with stage.drive.start(stage.ours.port, requests, seconds + _MARGIN_S, **_FLOOD, repeat=True) as running:
        running.await_first()
        outcome = stage.deliver(genuine, seconds, rate=_GENUINE)
        forged = running.finish()
    return Flooded(outcome.ms(0.99), connections, kept, forged)


class DatabaseUse:
    """Whether the service has used its database since this object was created.

    On PostgreSQL `count` returns the number of connections that ran a statement. On SQLite reads leave no trace, so it
    returns 1 if anything was written.
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
