"""The clock of the PostgreSQL server, which all processes of an installation follow. SQLite has one machine."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from app.clock import FollowingClock
from app.db.engine.database import Database, as_postgres
from app.errors import Unavailable
from app.telemetry import logs, metrics

TOLERANCE = timedelta(seconds=2)  # a larger difference is reported
_EVERY_S = 60.0
_RETRY_S = 1.0  # while no measurement has succeeded
_TIME = text("SELECT clock_timestamp()")

log = logs.get("clock")


async def follow_once(database: Database, clock: FollowingClock) -> None:
    """Set the clock to the server's. Does nothing on SQLite. Raises errors.Unavailable."""
    if as_postgres(database) is not None:
        await database.read(_set, clock)
        metrics.clock_ahead.set(clock.ahead / timedelta(seconds=1))


@asynccontextmanager
async def following(database: Database, clock: FollowingClock, every_s: float = _EVERY_S) -> AsyncGenerator[None]:
    """Set the clock to the server's before the block, and regularly in it. Log when the machine's clock is wrong."""
    if as_postgres(database) is None:
        yield
        return
    await _try_to_follow(database, clock)
    repeating = asyncio.create_task(_repeat(database, clock, every_s))
    try:
        yield
    finally:
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)


def is_wrong(ahead: timedelta) -> bool:
    """Whether this machine's clock differs from the server's by more than is normal."""
    return abs(ahead) > TOLERANCE


def describe(ahead: timedelta) -> str:
    """Describe the difference for an operator."""
    side = "ahead of" if ahead > timedelta() else "behind"
    return f"the clock of this machine is {abs(ahead) / timedelta(seconds=1):.1f} s {side} the database's"


async def _repeat(database: Database, clock: FollowingClock, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s if clock.is_set else _RETRY_S)
        await _try_to_follow(database, clock)


async def _try_to_follow(database: Database, clock: FollowingClock) -> None:
    was_wrong = is_wrong(clock.ahead)
    try:
        await follow_once(database, clock)
    except Unavailable:
        return
    if is_wrong(clock.ahead) and not was_wrong:
        log.warning("clock_is_wrong", detail=describe(clock.ahead))
    elif was_wrong and not is_wrong(clock.ahead):
        log.info("clock_is_right")


def _set(connection: Connection, clock: FollowingClock) -> None:
    """Set the clock at once: the bounds hold only at the moment when the answer arrives."""
    started = time.monotonic()
    read: datetime = connection.execute(_TIME).scalar_one()
    clock.set(read, read + timedelta(seconds=time.monotonic() - started))
