"""The feed as rows: all readers see one order, whatever the order of commits, and can tell what was pruned."""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import func, select, update

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.engine.feed_order import START, Position
from app.db.tables import events
from app.db.tables.events import NewEvent, Page
from tests.databases import connection_to
from tests.rows import START as NOON
from tests.rows import plan_task, write_now
from tests.sockets import until

DAY = timedelta(days=1)


def happened(*names: str, kind: str = "task.ready", at: datetime = NOON) -> Callable[[Connection], None]:
    """Return a unit that appends one event for each of these tasks."""

    def unit(connection: Connection) -> None:
        rows = [NewEvent(kind, f"task_{name}", "{}", at) for name in names]
        write_now(connection, events.append, rows)

    return unit


def with_tasks(*names: str) -> Callable[[Connection], None]:
    def unit(connection: Connection) -> None:
        for name in names:
            plan_task(connection, name)

    return unit


async def page(database: Database, after: Position = START, limit: int = 100, **filters: object) -> Page:
    return await database.read(lambda connection: events.following(connection, after, limit, **filters))  # type: ignore[arg-type]


def names(found: Page) -> str:
    return "".join(event.task_id.removeprefix("task_") for event in found.events)


async def settled(database: Database, expected: str) -> Page:
    """Return the feed once all of it is settled: another test's transaction on the same server may delay that."""

    async def is_there() -> bool:
        return names(await page(database)) == expected

    await until(is_there)
    return await page(database)


async def test_events_are_read_in_order_page_by_page(database: Database) -> None:
    await database.write(with_tasks(*"abc"))
    await database.write(happened(*"abc"))
    await database.write(happened(*"ca"))
    await settled(database, "abcca")

    first = await page(database, limit=2)
    second = await page(database, first.end, limit=2)
    third = await page(database, second.end, limit=2)

    assert [names(part) for part in (first, second, third)] == ["ab", "cc", "a"]
    assert [part.full for part in (first, second, third)] == [True, True, False]
    assert (await page(database, third.end)).end == third.end


async def test_a_filtered_page_ends_at_the_end_of_the_feed(database: Database) -> None:
    await database.write(with_tasks(*"ab"))
    await database.write(happened(*"ab"))
    await database.write(happened("b", kind="task.failed"))
    whole = await settled(database, "abb")

    of_task = await page(database, task_id="task_a")
    of_kind = await page(database, kinds={"task.failed"})
    of_none = await page(database, kinds={"task.stored"})

    assert [names(part) for part in (of_task, of_kind, of_none)] == ["a", "b", ""]
    assert {part.end for part in (of_task, of_kind, of_none)} == {whole.end}


async def test_an_empty_feed_ends_at_its_start(database: Database) -> None:
    assert await database.read(events.head) == START
    assert (await page(database)).end == START
    assert await database.read(lambda connection: events.is_kept(connection, START))


async def test_an_event_that_commits_after_a_later_one_is_not_missed(postgres_url: str) -> None:
    async with open_database(postgres_url) as database:
        await database.write(with_tasks(*"ab"))
        async with connection_to(postgres_url) as first:
            await first.run_sync(happened("a"))
            await database.write(happened("b"))
            meanwhile = await page(database)
            since = await database.read(events.pending_since)
            await first.commit()
        after = await settled(database, "ab")
        since_then = await database.read(events.pending_since)

    assert names(meanwhile) == ""
    assert meanwhile.pending is not None
    assert meanwhile.pending.task_id == "task_b"
    assert (since, since_then) == (NOON, None)
    assert after.events[0].position < after.events[1].position


async def test_a_rolled_back_transaction_no_longer_delays_the_feed(postgres_url: str) -> None:
    async with open_database(postgres_url) as database:
        await database.write(with_tasks(*"ab"))
        async with connection_to(postgres_url) as first:
            await first.run_sync(happened("a"))
            await database.write(happened("b"))
            assert names(await page(database)) == ""
            await first.rollback()

        assert names(await settled(database, "b")) == "b"


async def test_pruned_events_are_gone_and_older_cursors_are_recognised(database: Database) -> None:
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


async def test_a_feed_that_was_pruned_to_its_end_continues(database: Database) -> None:
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


async def test_a_position_past_the_end_belongs_to_another_feed(database: Database) -> None:
    await database.write(with_tasks("a"))
    await database.write(happened("a"))
    last = (await settled(database, "a")).end

    beyond = Position(last.xid, last.sequence + 1)

    assert not await database.read(lambda connection: events.is_kept(connection, beyond))
    assert names(await page(database, Position(2**63 - 1, 2**63 - 1))) == ""


async def test_a_feed_restored_from_a_server_with_higher_transaction_ids_starts_again(postgres_url: str) -> None:
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
        assert rows == 2  # the floor of the feed, and b
