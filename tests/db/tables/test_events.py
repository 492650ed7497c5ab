"""The feed as rows: one order for everybody, whoever commits first; and what is forgotten says so."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import events
from app.db.tables.events import START, Page, Position
from tests.databases import connection_to
from tests.rows import START as NOON
from tests.rows import plan_task
from tests.sockets import until

DAY = timedelta(days=1)


def happened(*names: str, kind: str = "task.ready", at: datetime = NOON) -> Callable[[Connection], None]:
    """A unit that adds one event for each of these tasks."""

    def unit(connection: Connection) -> None:
        rows = [(kind, f"task_{name}", "{}", at) for name in names]
        events.append(connection, rows)

    return unit


def with_tasks(*names: str) -> Callable[[Connection], None]:
    def unit(connection: Connection) -> None:
        for name in names:
            plan_task(connection, name)

    return unit


async def page(database: Database, after: Position = START, limit: int = 100, **wanted: object) -> Page:
    return await database.read(lambda connection: events.following(connection, after, limit, **wanted))  # type: ignore[arg-type]


def names(found: Page) -> str:
    return "".join(event.task_id.removeprefix("task_") for event in found.events)


async def settled(database: Database, expected: str) -> Page:
    """The feed, once all of it is settled: another test's transaction on the server may hold it back for a moment."""

    async def is_there() -> bool:
        return names(await page(database)) == expected

    await until(is_there)
    return await page(database)


async def test_events_are_read_in_their_order_page_by_page(database: Database) -> None:
    await database.write(with_tasks(*"abc"))
    await database.write(happened(*"abc"))
    await database.write(happened(*"ca"))
    await settled(database, "abcca")

    first = await page(database, limit=2)
    second = await page(database, first.end, limit=2)
    third = await page(database, second.end, limit=2)

    assert [names(each) for each in (first, second, third)] == ["ab", "cc", "a"]
    assert [each.full for each in (first, second, third)] == [True, True, False]
    assert (await page(database, third.end)).end == third.end


async def test_a_filtered_page_ends_where_the_feed_does(database: Database) -> None:
    await database.write(with_tasks(*"ab"))
    await database.write(happened(*"ab"))
    await database.write(happened("b", kind="task.failed"))
    whole = await settled(database, "abb")

    of_task = await page(database, task_id="task_a")
    of_kind = await page(database, kinds={"task.failed"})
    of_none = await page(database, kinds={"task.stored"})

    assert [names(each) for each in (of_task, of_kind, of_none)] == ["a", "b", ""]
    assert {each.end for each in (of_task, of_kind, of_none)} == {whole.end}


async def test_an_empty_feed_has_an_end(database: Database) -> None:
    assert await database.read(events.head) == START
    assert (await page(database)).end == START
    assert await database.read(lambda connection: events.is_kept(connection, START))


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "x-1", "1-ffffffffffffffff", "1" * 17 + "-1", "A-1"])
def test_what_is_no_position_is_none(text: str) -> None:
    assert Position.of(text) is None


def test_a_position_is_itself_again_after_being_text() -> None:
    assert Position.of(str(Position(2**63 - 1, 31))) == Position(2**63 - 1, 31)


async def test_who_commits_last_is_not_missed_though_it_came_first(postgres_url: str) -> None:
    async with open_database(postgres_url) as database:
        await database.write(with_tasks(*"ab"))
        async with connection_to(postgres_url) as first:
            await first.run_sync(happened("a"))
            await database.write(happened("b"))
            meanwhile = await page(database)
            await first.commit()
        after = await settled(database, "ab")

    assert (names(meanwhile), meanwhile.pending) == ("", True)
    assert after.events[0].position < after.events[1].position


async def test_a_transaction_that_is_undone_holds_nothing_back_for_longer(postgres_url: str) -> None:
    async with open_database(postgres_url) as database:
        await database.write(with_tasks(*"ab"))
        async with connection_to(postgres_url) as first:
            await first.run_sync(happened("a"))
            await database.write(happened("b"))
            assert names(await page(database)) == ""
            await first.rollback()

        assert names(await settled(database, "b")) == "b"


async def test_what_is_pruned_is_gone_and_older_cursors_are_told(database: Database) -> None:
    await database.write(with_tasks(*"abcd"))
    for days, name in enumerate("abcd"):
        await database.write(happened(name, at=NOON + days * DAY))
    before = await settled(database, "abcd")
    a, b, c, d = (event.position for event in before.events)

    for _ in range(2):  # the second time there is nothing to do
        await database.write(lambda connection: events.prune(connection, NOON + 1.5 * DAY))

    after = await settled(database, "cd")
    kept = [
        await database.read(lambda connection, at=at: events.is_kept(connection, at))  # type: ignore[misc]
        for at in (START, a, b, c, d)
    ]
    assert kept == [False, False, True, True, True]
    assert names(await page(database, b)) == "cd"
    assert after.end == before.end
    assert await database.read(events.starts_at) == NOON + 2 * DAY


async def test_a_feed_that_is_pruned_to_its_end_goes_on(database: Database) -> None:
    await database.write(with_tasks(*"ab"))
    await database.write(happened("a"))
    last = (await settled(database, "a")).end

    await database.write(lambda connection: events.prune(connection, NOON + DAY))
    pruned = await page(database)
    await database.write(happened("b", at=NOON + DAY))

    assert pruned.events == []
    assert names(await settled(database, "b")) == "b"
    assert await database.read(lambda connection: events.is_kept(connection, last))
    assert names(await page(database, last)) == "b"


async def test_a_place_past_the_end_is_of_another_feed(database: Database) -> None:
    await database.write(with_tasks("a"))
    await database.write(happened("a"))
    last = (await settled(database, "a")).end

    beyond = Position(last.xid, last.sequence + 1)

    assert not await database.read(lambda connection: events.is_kept(connection, beyond))
    assert names(await page(database, Position(2**63 - 1, 2**63 - 1))) == ""


async def test_a_feed_that_came_with_a_dump_from_a_server_further_on_begins_anew(postgres_url: str) -> None:
    def from_elsewhere(connection: Connection) -> None:
        happened("a")(connection)
        connection.execute(update(events.events).values(xid=2**40))

    async with open_database(postgres_url) as database:
        await database.write(with_tasks(*"ab"))
        await database.write(from_elsewhere)
        await database.write(lambda connection: events.prune(connection, NOON - DAY))
        await database.write(happened("b"))
        await settled(database, "b")

        old = Position(2**40, 1)
        assert not await database.read(lambda connection: events.is_kept(connection, old))
        assert not await database.read(lambda connection: events.is_kept(connection, START))
        rows = await database.read(
            lambda connection: connection.execute(select(func.count()).select_from(events.events)).scalar_one()
        )
        assert rows == 2  # what stands for the pruned ones, and b
