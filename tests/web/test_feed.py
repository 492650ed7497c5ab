"""A listener gets every event once and in order, and causes no queries while there are no events."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.engine.feed_order import START, Position
from app.db.tables import events
from app.db.tables.events import Event
from app.errors import Unavailable
from app.rules.task import Status
from app.transitions.announce import Announcement, announce
from app.web.feed import Feed
from app.web.lateness import Lateness
from app.web.listener import Ended, EventFilter, Listener
from tests.databases import connection_to
from tests.rows import START as NOON
from tests.rows import plan_task
from tests.sockets import until
from tests.world import FrozenClock

T = TypeVar("T")


class Counted:
    """A database that counts its reads."""

    is_busy = False

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.reads = 0
        self.dialect = inner.dialect
        self.write, self.batcher = inner.write, inner.batcher
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

        self.away = 0  # the number of reads that fail

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self.reads += 1
        if self.away:
            self.away -= 1
            raise Unavailable("away")
        return await self._inner.read(work, *args, **kwargs)


def ready(*numbers: int) -> Callable[[Connection], None]:
    """Return a unit of work in which these tasks become ready."""
    return lambda connection: announce(connection, [Announcement(f"task_{n}", Status.READY) for n in numbers], NOON)


def planned(count: int) -> Callable[[Connection], None]:
    def unit(connection: Connection) -> None:
        for number in range(count):
            plan_task(connection, str(number))

    return unit


async def heard(listener: Listener, count: int) -> list[str]:
    """Return the task ids of the next `count` events."""
    found: list[str] = []
    async with asyncio.timeout(120):
        while len(found) < count:
            found += [event.task_id for event in await listener.next(5)]
    return found


@pytest.fixture
def stopping() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def feed(database: Database, stopping: asyncio.Event) -> AsyncGenerator[Feed]:
    await database.write(planned(3))
    async with Feed(database, stopping) as opened:
        yield opened


async def test_a_listener_gets_the_events_from_then_on(database: Database, feed: Feed) -> None:
    await database.write(ready(0))
    async with feed.listen(None) as listener:
        start = listener.position
        await database.write(ready(1, 2))
        found = await heard(listener, 2)

    assert found[-2:] == ["task_1", "task_2"]
    assert start < listener.position


async def test_a_listener_with_a_position_gets_the_missed_events_first(database: Database, feed: Feed) -> None:
    await database.write(ready(0))
    async with feed.listen(START) as listener:
        first = await heard(listener, 1)
        await database.write(ready(1))
        second = await heard(listener, 1)

    assert first + second == ["task_0", "task_1"]


async def test_a_listener_gets_only_the_events_of_its_filter(database: Database, feed: Feed) -> None:
    async with (
        feed.listen(START, EventFilter("task_1")) as one,
        feed.listen(START, EventFilter(None, frozenset({"x"}))) as none,
    ):
        assert await none.next(0.01) == []
        await database.write(ready(0, 1, 2))

        assert await heard(one, 1) == ["task_1"]
        assert await none.next(0.01) == []


async def test_a_listener_that_reconnects_misses_and_repeats_no_event(database: Database, feed: Feed) -> None:
    rounds, at_once = 8, 4

    async def write() -> None:
        for _ in range(rounds):
            await asyncio.gather(*(database.write(ready(n % 3)) for n in range(at_once)))

    async def listen() -> list[Position]:
        found: list[Position] = []
        while len(found) < rounds * at_once:
            after = found[-1] if found else START
            async with feed.listen(after) as listener:
                for _ in range(2):  # the first is read, what follows is handed on
                    found += [event.position for event in await listener.next(0.5)]
        return found

    async with asyncio.timeout(120):
        _, *each = await asyncio.gather(write(), listen(), listen())

    whole = await database.read(lambda connection: events.following(connection, START, 100))
    assert [event.position for event in whole.events] == each[0] == each[1]


async def test_a_listener_that_is_too_slow_is_ended_and_no_other_is(database: Database) -> None:
    await database.write(planned(3))
    async with (
        Feed(database, asyncio.Event(), max_pending=5) as feed,
        feed.listen(None) as slow,
        feed.listen(None) as quick,
    ):
        for number in range(8):
            await database.write(ready(number % 3))
            await heard(quick, 1)

        late = await slow.next(0)
        with pytest.raises(Ended):
            await slow.next(0)

        async with feed.listen(slow.position) as again:
            assert len(late) + len(await heard(again, 3)) == 8
        await database.write(ready(0))
        assert await heard(quick, 1) == ["task_0"]


async def test_the_feed_waits_for_the_end_of_a_database_outage(database: Database) -> None:
    await database.write(planned(1))
    counted = Counted(database)
    async with Feed(counted, asyncio.Event()) as feed, feed.listen(None) as listener:
        counted.away = 3
        await database.write(ready(0))

        assert await heard(listener, 1) == ["task_0"]
        assert counted.away == 0


async def test_every_listener_is_ended_when_the_service_stops(database: Database) -> None:
    stopping = asyncio.Event()
    async with Feed(database, stopping) as feed:
        async with feed.listen(None) as listener:
            waiting = asyncio.create_task(listener.next(60))
            await asyncio.sleep(0)
            stopping.set()
            with pytest.raises(Ended):
                await waiting
        with pytest.raises(Ended):
            async with feed.listen(None):
                pass


async def test_a_listener_that_is_ended_while_it_catches_up_keeps_its_position(
    database: Database, feed: Feed, stopping: asyncio.Event
) -> None:
    async with feed.listen(START) as listener:
        await database.write(ready(0))
        stopping.set()
        await asyncio.sleep(0)
        with pytest.raises(Ended):
            await listener.next(0)

    assert listener.position == START


async def test_events_of_another_process_are_received(postgres_url: str) -> None:
    async with (
        open_database(postgres_url) as ours,
        open_database(postgres_url) as theirs,
        Feed(ours, asyncio.Event()) as feed,
        feed.listen(None) as listener,
    ):
        await theirs.write(planned(1))
        await theirs.write(ready(0))

        assert await heard(listener, 1) == ["task_0"]


async def test_events_that_settle_late_are_received_without_a_notification(postgres_url: str) -> None:
    async with (
        open_database(postgres_url) as database,
        Feed(database, asyncio.Event()) as feed,
        feed.listen(None) as listener,
    ):
        await database.write(planned(1))
        async with connection_to(postgres_url) as other:
            await other.run_sync(lambda connection: plan_task(connection, "other"))
            await database.write(ready(0))
            assert await listener.next(0.05) == []
            await other.commit()

        assert await heard(listener, 1) == ["task_0"]


async def test_a_feed_that_is_held_back_is_late_and_logged_once_until_it_goes_on(postgres_url: str) -> None:
    clock = FrozenClock()
    async with (
        open_database(postgres_url) as database,
        Feed(database, asyncio.Event(), now=clock) as feed,
        feed.listen(None) as listener,
    ):
        await database.write(planned(1))

        async def is_late() -> bool:
            return feed.lateness.since is not None

        with capture_logs() as lines:
            async with connection_to(postgres_url) as other:
                await other.run_sync(lambda connection: plan_task(connection, "other"))
                await database.write(ready(0))
                assert await listener.next(0.05) == []
                assert not await is_late()
                clock.advance(6)
                await until(is_late)
                clock.advance(6)
                woken = await listener.next(60)
                since = feed.lateness.since
                await other.commit()
            assert await heard(listener, 1) == ["task_0"]
            await until(lambda: _logged(lines, "feed_resumed"))

    assert (woken, since, feed.lateness.since) == ([], NOON, None)
    assert [line["event"] for line in lines] == ["feed_delayed", "feed_resumed"]
    assert lines[0]["blocked_by"].startswith("process ")


async def _logged(lines: Sequence[Mapping[str, Any]], event: str) -> bool:
    return any(line["event"] == event for line in lines)


async def test_an_old_event_that_is_pending_for_a_moment_does_not_make_the_feed_late(database: Database) -> None:
    """After an outage of the database, events are written that happened long before."""
    old = Event(Position(1, 1), "task.ready", "task_0", NOON, "app_1", {})
    lateness = Lateness(database, FrozenClock(NOON + timedelta(hours=1)))

    assert not await lateness.observe(old)
    assert lateness.since is None
