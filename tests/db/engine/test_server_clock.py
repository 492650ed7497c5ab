"""Processes on machines whose clocks differ use the time of the PostgreSQL server."""

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app.clock import FollowingClock, utc_now
from app.db.engine.database import Database, open_database
from app.db.engine.server_clock import follow_once, following, is_wrong
from app.errors import Unavailable
from app.telemetry import metrics
from tests.faults import Trip, failing_transaction
from tests.sockets import until
from tests.world import FrozenClock

HOUR = timedelta(hours=1)
CLOSE = timedelta(seconds=10)  # far below the difference, and longer than a slow machine takes


@pytest.fixture
async def postgresql(postgres_url: str) -> AsyncGenerator[Database]:
    async with open_database(postgres_url) as opened:
        yield opened


async def server_time(database: Database) -> datetime:
    return await database.read(lambda connection: connection.execute(text("SELECT clock_timestamp()")).scalar_one())


def exposed() -> float | None:
    return metrics.REGISTRY.get_sample_value("fluxhook_clock_ahead_seconds")


@pytest.mark.parametrize("wrong_by", [HOUR, -HOUR, 30 * HOUR], ids=["ahead", "behind", "another day"])
async def test_a_wrong_clock_is_set_to_the_server_and_its_difference_is_known(
    postgresql: Database, wrong_by: timedelta
) -> None:
    clock = FollowingClock(lambda: utc_now() + wrong_by)
    before = await server_time(postgresql)
    await follow_once(postgresql, clock)
    shown = clock()
    after = await server_time(postgresql)

    assert before - CLOSE <= shown <= after + CLOSE
    assert abs(clock.ahead - wrong_by) < timedelta(minutes=1)
    assert exposed() == clock.ahead.total_seconds()


async def test_a_clock_that_agrees_is_not_reported(postgresql: Database) -> None:
    clock = FollowingClock()
    with capture_logs() as lines:
        async with following(postgresql, clock):
            pass

    assert clock.is_set
    assert not is_wrong(clock.ahead)
    assert lines == []


async def test_on_sqlite_the_clock_of_the_machine_is_used(sqlite_url: str) -> None:
    machine = FrozenClock()
    clock = FollowingClock(machine)
    async with open_database(sqlite_url) as database, following(database, clock, every_s=0):
        await follow_once(database, clock)

    assert (clock(), clock.is_set) == (machine.at, False)


async def test_the_clock_is_measured_again_and_a_change_is_logged_once(postgresql: Database) -> None:
    wrong_by = [HOUR]
    clock = FollowingClock(lambda: utc_now() + wrong_by[-1])

    async def is_measured_behind() -> bool:
        return clock.ahead < -HOUR

    async def is_reported_right() -> bool:
        return any(line["event"] == "clock_is_right" for line in lines)

    with capture_logs() as lines:
        async with following(postgresql, clock, every_s=0.01):
            wrong_by.append(-2 * HOUR)
            await until(is_measured_behind)
            wrong_by.append(timedelta())
            await until(is_reported_right)

    assert [line["event"] for line in lines] == ["clock_is_wrong", "clock_is_right"]
    assert "ahead of the database's" in lines[0]["detail"]


async def test_a_measurement_that_fails_keeps_the_clock_running_and_is_repeated(postgresql: Database) -> None:
    clock, trip = FollowingClock(lambda: utc_now() + HOUR), Trip(1)

    async def is_set() -> bool:
        return clock.is_set

    with failing_transaction(postgresql, trip):
        async with following(postgresql, clock, every_s=0.01):
            unset = clock()
            await until(is_set)

    assert unset > utc_now() + HOUR / 2
    assert clock() < utc_now() + HOUR / 2


async def test_a_single_measurement_reports_an_outage(postgresql: Database) -> None:
    with failing_transaction(postgresql, Trip(1)), pytest.raises(Unavailable):
        await follow_once(postgresql, FollowingClock())
