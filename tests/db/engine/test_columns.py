from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from app.db import Connection
from app.db.engine.columns import Instant, sortable
from app.db.engine.database import Database
from app.db.tables.tasks import tasks
from tests.rows import START, plan_task

INSTANTS = [
    START,
    START.replace(microsecond=1),
    START.replace(microsecond=999_999),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2))),
    datetime(2026, 1, 1, 0, 0, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
    datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
]


def instants(connection: Connection) -> list[datetime]:
    """Return the stored instants in the order of the database."""
    return list(connection.execute(select(tasks.c.created_at).order_by(tasks.c.created_at)).scalars())


async def test_instants_of_any_zone_are_read_back_in_utc_and_sort_by_time(database: Database) -> None:
    def write(connection: Connection) -> None:
        for number, at in enumerate(INSTANTS):
            plan_task(connection, str(number), at)

    await database.write(write)

    found = await database.read(instants)
    assert found == sorted(INSTANTS)
    assert {at.tzinfo for at in found} == {UTC}


async def test_a_missing_instant_is_none(database: Database) -> None:
    await database.write(plan_task)

    assert await database.read(lambda connection: connection.execute(select(tasks.c.ready_at)).scalar_one()) is None


async def test_an_instant_without_a_zone_is_refused(database: Database) -> None:
    naive = START.replace(tzinfo=None)
    with pytest.raises(Exception, match="zone"):
        await database.write(lambda connection: plan_task(connection, at=naive))


@pytest.mark.parametrize("at", INSTANTS)
def test_sortable_returns_the_same_text_as_the_column_type(at: datetime) -> None:
    dialect = sqlite.dialect()
    convert = Instant().dialect_impl(dialect).bind_processor(dialect)
    assert convert is not None
    assert sortable(at) == convert(at)


def test_sortable_refuses_an_instant_without_a_zone() -> None:
    with pytest.raises(ValueError, match="zone"):
        sortable(START.replace(tzinfo=None))
