"""The transaction that delays the feed, as it is described to an operator."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from app.db.engine.database import Database, open_database
from app.db.queries.feed_delay import OpenTransaction, oldest_writer
from tests.databases import connection_to
from tests.sockets import until


async def test_without_an_open_transaction_there_is_nothing_to_name(database: Database) -> None:
    async def nothing_is_open() -> bool:
        return await database.read(oldest_writer) is None

    await until(nothing_is_open)  # another test may use the same server


async def test_only_the_oldest_transaction_that_has_written_is_named(postgres_url: str) -> None:
    async with (
        open_database(postgres_url) as database,
        connection_to(postgres_url) as reader,
        connection_to(f"{postgres_url}&application_name=first") as first,
        connection_to(f"{postgres_url}&application_name=second") as second,
    ):
        await reader.execute(text("SELECT count(*) FROM tasks"))
        await first.execute(text("SELECT pg_current_xact_id()"))
        await second.execute(text("SELECT pg_current_xact_id()"))
        oldest = await database.read(oldest_writer)
        await first.rollback()
        next_oldest = await database.read(oldest_writer)

    assert oldest is not None
    assert oldest.age is not None
    assert oldest.age > timedelta()
    assert "(first, idle in transaction)" in oldest.description
    assert next_oldest is not None
    assert "(second, idle in transaction)" in next_oldest.description


async def test_a_database_user_without_rights_over_other_sessions_still_learns_the_process(postgres_url: str) -> None:
    async with (
        open_database(postgres_url) as database,
        connection_to(postgres_url) as other,
        connection_to(postgres_url) as unprivileged,
    ):
        await other.execute(text("SELECT pg_current_xact_id()"))
        await database.write(lambda connection: connection.execute(text("CREATE ROLE a_plain_user")).close())
        await unprivileged.execute(text("SET ROLE a_plain_user"))
        found = await unprivileged.run_sync(oldest_writer)
        await unprivileged.rollback()
        await database.write(lambda connection: connection.execute(text("DROP ROLE a_plain_user")).close())

    assert found is not None
    assert (found.description.startswith("process "), found.age) == (True, None)


@pytest.mark.parametrize(
    ("age", "said"), [(None, "process 1"), (timedelta(minutes=5, seconds=2.7), "process 1, open for 0:05:02")]
)
def test_a_transaction_is_described_with_its_age_if_it_is_known(age: timedelta | None, said: str) -> None:
    assert str(OpenTransaction("process 1", age)) == said
