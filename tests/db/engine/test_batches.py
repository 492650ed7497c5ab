"""What comes while a group is written is written together, and each item fares as if it had come alone."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from app.db import Connection
from app.db.engine.batches import Bounds
from app.db.engine.commit_hooks import after_commit, notify_after_commit
from app.db.engine.database import Database, open_database
from app.db.tables import tasks
from app.errors import Overloaded, Unavailable
from tests.databases import Gate
from tests.disk import full_disk, make_large, write_much
from tests.rows import plan_task
from tests.sockets import signals_to, until

MIB = 1024 * 1024


class Writing:
    """A work that leaves a task and an effect for each name, and remembers the groups that it was called with."""

    def __init__(
        self, poisoned: Collection[str] = (), gate: Gate | None = None, then: Callable[[Connection], None] | None = None
    ) -> None:
        self.groups: list[list[str]] = []
        self.happened: list[str] = []
        self._poisoned = poisoned
        self._gate = gate
        self._then = then

    def __call__(self, connection: Connection, names: Sequence[str]) -> list[str]:
        self.groups.append(list(names))
        if self._gate and len(self.groups) == 1:
            self._gate.hold(connection)
        for name in names:
            plan_task(connection, name)
            after_commit(connection, partial(self.happened.append, name))
            if name in self._poisoned:
                raise KeyError(name)
        if self._then:
            self._then(connection)
        return [f"wrote {name}" for name in names]


async def kept(database: Database) -> set[str]:
    """The names of all tasks in the database."""
    found = await database.read(lambda connection: tasks.newest(connection, limit=10_000))
    return {task.id.removeprefix("task_") for task in found}


def begin(database: Database, work: Writing, names: Sequence[str], size: int = 0) -> list[asyncio.Task[str]]:
    async def written(name: str) -> str:
        return await database.write_batched(work, name, size)

    return [asyncio.create_task(written(name)) for name in names]


async def joined() -> None:
    """By now the tasks that were begun stand in line."""
    await asyncio.sleep(0)


async def all_of(calls: Sequence[asyncio.Task[str]]) -> list[Any]:
    """What came of each, in bounded time."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*calls, return_exceptions=True)


async def after_the_first(
    database: Database, work: Writing, gate: Gate, names: Sequence[str], size: int = 0
) -> list[Any]:
    """What comes of these names, which come while `first` is being written."""
    first = begin(database, work, ["first"])
    await gate.reached.wait()
    others = begin(database, work, names, size)
    await joined()
    gate.open()
    return (await all_of([*first, *others]))[1:]


async def test_a_lone_item_is_written_alone_and_at_once(database: Database) -> None:
    work = Writing()
    results = [await database.write_batched(work, name) for name in ("a", "b")]

    assert results == ["wrote a", "wrote b"]
    assert work.groups == [["a"], ["b"]]
    assert await kept(database) == {"a", "b"}


async def test_what_comes_while_a_group_is_written_is_written_together_and_in_order(database: Database) -> None:
    work = Writing(gate=(gate := Gate()))
    names = ["d", "b", "e", "a", "c"]
    results = await after_the_first(database, work, gate, names)

    assert results == [f"wrote {name}" for name in names]
    assert work.groups == [["first"], names]
    assert work.happened == ["first", *names]
    assert await kept(database) == {"first", *names}


@pytest.mark.parametrize("company", [False, True], ids=["alone", "beside another unit"])
@pytest.mark.parametrize("poisoned", ["a", "d", "h", "ah", "cdg"])
async def test_whoever_is_at_fault_fails_and_nobody_else(database: Database, poisoned: str, company: bool) -> None:
    work = Writing(poisoned, gate := Gate())
    first = begin(database, work, ["first"])
    await gate.reached.wait()
    beside = [asyncio.create_task(database.write(lambda c: plan_task(c, "beside")))] if company else []
    others = begin(database, work, "abcdefgh")
    await joined()
    gate.open()
    results = (await all_of([*first, *others, *beside]))[1:9]

    well = [name for name in "abcdefgh" if name not in poisoned]
    assert [result for result in results if isinstance(result, str)] == [f"wrote {name}" for name in well]
    failures = [result for result in results if isinstance(result, KeyError)]
    assert [failure.args for failure in failures] == [(name,) for name in poisoned]
    assert await kept(database) == {"first", *well} | ({"beside"} if company else set())
    assert sorted(work.happened) == sorted(["first", *well])


async def test_a_work_that_fails_for_all_fails_for_each_and_leaves_nothing(database: Database) -> None:
    work = Writing("abcde", gate := Gate())
    results = await after_the_first(database, work, gate, "abcde")

    assert [(type(result), result.args) for result in results] == [(KeyError, (name,)) for name in "abcde"]
    assert work.happened == ["first"]
    assert await kept(database) == {"first"}


async def test_a_lone_item_at_fault_is_told_what_was_wrong(database: Database) -> None:
    with pytest.raises(KeyError, match="a"):
        await database.write_batched(Writing("a"), "a")

    assert await database.write_batched(Writing(), "a") == "wrote a"


async def test_a_stray_stop_iteration_of_a_group_is_an_error_and_not_an_endless_wait(database: Database) -> None:
    def work(_connection: Connection, _items: Sequence[str]) -> list[str]:
        return [next(iter(()))]

    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await database.write_batched(work, "a")


async def test_what_a_group_left_before_it_failed_and_was_run_again_happens_once(database: Database) -> None:
    failures = [ValueError("this time")]

    def fail_once(_connection: Connection) -> None:
        if len(work.groups) > 1 and failures:
            raise failures.pop()

    work = Writing(gate=(gate := Gate()), then=fail_once)
    results = await after_the_first(database, work, gate, "abc")

    assert results == ["wrote a", "wrote b", "wrote c"]
    assert work.happened == ["first", "a", "b", "c"]


async def test_on_sqlite_what_a_group_left_whose_commit_failed_and_then_did_not_happens_once(sqlite: Database) -> None:
    def prepare(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)").close()
        connection.exec_driver_sql(
            "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        ).close()

    def break_the_first_commit(connection: Connection) -> None:
        if len(work.groups) == 1:
            connection.exec_driver_sql("INSERT INTO child VALUES (1)").close()

    await sqlite.write(prepare)
    work = Writing(then=break_the_first_commit)
    result = await sqlite.write_batched(work, "a")

    assert (result, work.groups, work.happened) == ("wrote a", [["a"], ["a"]], ["a"])


async def test_on_sqlite_what_a_group_left_that_was_never_committed_is_not_done_for_the_next_unit(
    sqlite: Database, sqlite_url: str
) -> None:
    """Between its two tries somebody else takes the file, so the second cannot even begin."""
    await sqlite.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=1").close())
    taken: list[sqlite3.Connection] = []

    def take_the_file(connection: Connection) -> None:
        connection.rollback()
        taken.append(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), check_same_thread=False))
        taken[0].execute("BEGIN IMMEDIATE")
        raise ValueError

    work = Writing(then=take_the_file)
    with pytest.raises(Unavailable):
        await sqlite.write_batched(work, "a")
    with closing(taken[0]) as other:
        other.rollback()
    await sqlite.write(lambda connection: plan_task(connection, "b"))

    assert work.happened == []
    assert await kept(sqlite) == {"b"}


async def test_more_than_one_group_takes_all_get_done(database: Database) -> None:
    work = Writing(gate=(gate := Gate()))
    names = [f"{number:04}" for number in range(600)]
    results = await after_the_first(database, work, gate, names)

    assert results == [f"wrote {name}" for name in names]
    assert [name for group in work.groups for name in group] == ["first", *names]
    assert len(await kept(database)) == 601


async def test_a_caller_that_goes_away_undoes_nothing_and_hangs_nobody(database: Database) -> None:
    work = Writing(gate=(gate := Gate()))
    calls = begin(database, work, ["first"])
    await gate.reached.wait()
    calls += begin(database, work, "abc")
    await joined()
    calls[0].cancel()  # is being written
    calls[2].cancel()  # waits
    await joined()
    gate.open()
    results = await all_of(calls)

    assert [type(result) for result in results] == [asyncio.CancelledError, str, asyncio.CancelledError, str]
    assert await kept(database) == {"first", "a", "b", "c"}
    assert await database.write_batched(work, "d") == "wrote d"


async def test_different_works_do_not_mix(database: Database) -> None:
    gate = Gate()
    one, other = Writing(gate=gate), Writing()
    calls = begin(database, one, ["first"])
    await gate.reached.wait()
    for name in "abc":
        calls += [*begin(database, one, [name]), *begin(database, other, [name.upper()])]
    await joined()
    gate.open()
    await all_of(calls)

    assert one.groups == [["first"], ["a", "b", "c"]]
    assert [name for group in other.groups for name in group] == ["A", "B", "C"]
    assert await kept(database) == {"first", *"abcABC"}


async def test_on_sqlite_a_group_does_not_wait_behind_a_crowd_of_single_units(sqlite: Database) -> None:
    gate, order = Gate(), list[str]()
    held = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()
    crowd = [asyncio.create_task(sqlite.write(lambda _: order.append("single"))) for _ in range(50)]
    await joined()
    written = Writing(then=lambda _: order.append("group"))
    calls = begin(sqlite, written, ["late"])
    await joined()
    gate.open()
    await asyncio.gather(held, *crowd, *calls)

    assert order.index("group") <= 4
    assert order.count("single") == 50


async def test_on_sqlite_groups_and_single_units_that_wait_take_turns(sqlite: Database) -> None:
    gate, order = Gate(), list[str]()
    held = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()
    crowd = [asyncio.create_task(sqlite.write(lambda _: order.append("single"))) for _ in range(6)]
    works = [Writing(then=lambda _: order.append("group")) for _ in range(4)]
    calls = [call for number, work in enumerate(works) for call in begin(sqlite, work, [f"{number}"])]
    await joined()
    gate.open()
    await asyncio.gather(held, *crowd, *calls)

    assert order == ["group", "single"] * 3 + ["group"] + ["single"] * 3


async def test_on_sqlite_a_group_waits_for_one_of_the_single_units_that_would_be_written_together(
    sqlite: Database,
) -> None:
    before, during, order = Gate(), Gate(), list[str]()

    def single(connection: Connection) -> None:
        if not order:
            during.hold(connection)
        order.append("single")

    held = asyncio.create_task(sqlite.write(before.hold))
    await before.reached.wait()
    crowd = [asyncio.create_task(sqlite.write(single)) for _ in range(4)]
    await joined()
    before.open()
    await during.reached.wait()
    calls = begin(sqlite, Writing(then=lambda _: order.append("group")), ["late"])
    await joined()
    during.open()
    await asyncio.gather(held, *crowd, *calls)

    assert order == ["single", "group", "single", "single", "single"]


async def test_a_group_that_asks_for_it_is_told_of_once_it_is_committed(database: Database) -> None:
    seen = await signals_to(database)
    during: list[int] = []

    def ask(connection: Connection) -> None:
        notify_after_commit(connection)
        during.append(len(seen))

    work = Writing(gate=(gate := Gate()), then=ask)
    await after_the_first(database, work, gate, "abc")
    await database.write(lambda _: None)  # the writer has sent its signals before it takes this

    assert (during, len(seen)) == ([0, 1], 2)


async def test_a_group_that_asked_and_was_undone_is_not_told_of(database: Database) -> None:
    seen = await signals_to(database)

    def work(connection: Connection, _: Sequence[str]) -> list[str]:
        notify_after_commit(connection)
        raise KeyError

    with pytest.raises(KeyError):
        await database.write_batched(work, "a")
    await database.write(lambda connection: plan_task(connection, "b"))
    await database.write(lambda _: None)

    assert seen == []


async def test_closing_finishes_what_waits_in_line(database_url: str) -> None:
    gate = Gate()
    async with open_database(database_url) as database:
        calls = begin(database, work := Writing(gate=gate), ["first"])
        await gate.reached.wait()
        names = [f"{number}" for number in range(600)]
        calls += begin(database, work, names)
        await joined()
        gate.open()
    results = await all_of(calls)

    assert results == [f"wrote {name}" for name in ("first", *names)]
    async with open_database(database_url) as again:
        assert len(await kept(again)) == 601


async def test_on_sqlite_a_closed_database_takes_no_more_items(sqlite_url: str) -> None:
    async with open_database(sqlite_url) as database:
        pass
    with pytest.raises(Unavailable):
        await database.write_batched(Writing(), "a")


async def test_on_sqlite_a_file_that_somebody_else_holds_is_unavailable_to_all_of_a_group(
    sqlite: Database, sqlite_url: str
) -> None:
    work = Writing()
    await sqlite.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout=1").close())
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as backup:
        backup.execute("BEGIN IMMEDIATE")
        refused = await all_of(begin(sqlite, work, [f"{number}" for number in range(600)]))
        backup.rollback()
    again = await all_of(begin(sqlite, work, "abc"))

    assert {type(result) for result in refused} == {Unavailable}
    assert again == ["wrote a", "wrote b", "wrote c"]
    assert await kept(sqlite) == {"a", "b", "c"}


async def test_on_sqlite_nobody_in_a_group_is_told_that_is_kept_what_a_full_disk_undid(sqlite: Database) -> None:
    await sqlite.write(make_large)
    gate = Gate()

    def keep(connection: Connection, names: Sequence[str]) -> list[str]:
        for name in names:
            if name == "poisoned":
                raise ValueError(name)
            write_much(connection) if name == "large" else plan_task(connection, name)
        return list(names)

    holding = asyncio.ensure_future(sqlite.write(gate.hold))
    await gate.reached.wait()
    calls = [asyncio.ensure_future(sqlite.write_batched(keep, name)) for name in ("a", "b", "poisoned", "large")]
    await joined()
    with full_disk(4_000_000):
        gate.open()
        await holding
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 4
    assert await kept(sqlite) == set()


async def test_on_postgresql_a_server_that_is_away_is_unavailable_to_all_of_a_group() -> None:
    async with open_database("postgresql://nobody@/none?host=/nowhere") as database:
        refused = await all_of(begin(database, Writing(), "abc"))

    assert [type(result) for result in refused] == [Unavailable] * 3


async def test_an_item_that_weighs_more_than_can_be_held_is_turned_away(database: Database) -> None:
    work = Writing()
    with pytest.raises(Overloaded):
        await database.write_batched(work, "a", size=65 * MIB)

    assert await database.write_batched(work, "b", size=MIB) == "wrote b"
    assert work.groups == [["b"]]


# What may wait


async def held(database: Database, name: str = "held", size: int = 0) -> tuple[Writing, Gate, list[asyncio.Task[str]]]:
    """A work whose first item is being written until the gate is opened."""
    work = Writing(gate=(gate := Gate()))
    calls = begin(database, work, [name], size)
    await gate.reached.wait()
    return work, gate, calls


async def test_when_so_many_wait_the_next_is_turned_away_at_once_until_some_were_taken(database_url: str) -> None:
    async with open_database(database_url, Bounds(items=2)) as database:
        work, gate, calls = await held(database)
        calls += begin(database, work, "ab")
        await joined()
        with pytest.raises(Overloaded):
            await database.write_batched(work, "c")
        gate.open()
        results = await all_of(calls)

        assert results == ["wrote held", "wrote a", "wrote b"]
        assert await database.write_batched(work, "c") == "wrote c"
        assert await kept(database) == {"held", "a", "b", "c"}


async def test_what_is_being_written_weighs_too_until_it_is_written(database_url: str) -> None:
    async with open_database(database_url, Bounds(size=10)) as database:
        work, gate, calls = await held(database, size=6)
        with pytest.raises(Overloaded):
            await database.write_batched(work, "b", 5)
        calls += begin(database, work, "c", 4)
        await joined()
        with pytest.raises(Overloaded):
            await database.write_batched(work, "d", 1)
        gate.open()
        await all_of(calls)

        assert await database.write_batched(work, "e", 10) == "wrote e"
        assert await kept(database) == {"held", "c", "e"}


async def test_who_was_turned_away_or_went_away_weighs_nothing(database_url: str) -> None:
    async with open_database(database_url, Bounds(items=1, size=10)) as database:
        work, gate, calls = await held(database)
        (gone,) = begin(database, work, "a", 10)
        await joined()
        for _ in range(3):
            with pytest.raises(Overloaded):
                await database.write_batched(work, "b", 10)
        gone.cancel()
        await joined()
        gate.open()
        await all_of([*calls, gone])

        async def is_taken() -> bool:
            try:
                return await database.write_batched(work, "c", 10) == "wrote c"
            except Overloaded:  # what is left of the one that went away is still being written
                return False

        await until(is_taken)
