"""Items that arrive while a batch is written form the next batch, and each has the outcome that it has by itself."""

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
from app.db.engine.fair_queue import owner
from app.errors import DatabaseUnavailable, Overloaded, Unavailable
from tests.databases import Gate
from tests.disk import full_disk, make_large, write_much
from tests.rows import newest_tasks, plan_task
from tests.sockets import signals_to, until

MIB = 1024 * 1024


class Writing:
    """A batcher and its `Work`, which writes a task and registers a commit hook for each name, and records batches."""

    def __init__(
        self,
        database: Database,
        poisoned: Collection[str] = (),
        gate: Gate | None = None,
        after: Callable[[Connection], None] | None = None,
    ) -> None:
        self.batches: list[list[str]] = []
        self.hooks_run: list[str] = []
        self._poisoned = poisoned
        self._gate = gate
        self._after = after
        self._batcher = database.batcher(self)

    def add(self, name: str, size: int = 0) -> "asyncio.Future[str]":
        return self._batcher.add(name, size)

    def __call__(self, connection: Connection, names: Sequence[str]) -> list[str]:
        self.batches.append(list(names))
        if self._gate and len(self.batches) == 1:
            self._gate.hold(connection)
        for name in names:
            plan_task(connection, name)
            after_commit(connection, partial(self.hooks_run.append, name))
            if name in self._poisoned:
                raise KeyError(name)
        if self._after:
            self._after(connection)
        return [f"wrote {name}" for name in names]


async def stored(database: Database) -> set[str]:
    """The names of all tasks in the database."""
    found = await database.read(lambda connection: newest_tasks(connection, 10_000))
    return {task.id.removeprefix("task_") for task in found}


def begin(work: Writing, names: Sequence[str], size: int = 0) -> list[asyncio.Task[str]]:
    """Start to write these names, each in an asyncio task."""

    async def write(name: str) -> str:
        return await work.add(name, size)

    return [asyncio.create_task(write(name)) for name in names]


async def all_waiting() -> None:
    """Wait until the items of `begin` have been added to their batcher."""
    await asyncio.sleep(0)


async def all_of(calls: Sequence[asyncio.Task[str]]) -> list[Any]:
    """Return a result or an exception for each, within 30 seconds."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*calls, return_exceptions=True)


async def after_the_first(work: Writing, gate: Gate, names: Sequence[str], size: int = 0) -> list[Any]:
    """Write these names while `first` is being written, and return their outcomes."""
    first = begin(work, ["first"])
    await gate.reached.wait()
    others = begin(work, names, size)
    await all_waiting()
    gate.open()
    return (await all_of([*first, *others]))[1:]


async def test_an_item_that_arrives_while_nothing_is_written_is_written_at_once(database: Database) -> None:
    work = Writing(database)
    results = [await work.add(name) for name in ("a", "b")]

    assert results == ["wrote a", "wrote b"]
    assert work.batches == [["a"], ["b"]]
    assert await stored(database) == {"a", "b"}


async def test_items_that_arrive_while_a_batch_is_written_form_the_next_batch_in_order(database: Database) -> None:
    work = Writing(database, gate=(gate := Gate()))
    names = ["d", "b", "e", "a", "c"]
    results = await after_the_first(work, gate, names)

    assert results == [f"wrote {name}" for name in names]
    assert work.batches == [["first"], names]
    assert work.hooks_run == ["first", *names]
    assert await stored(database) == {"first", *names}


@pytest.mark.parametrize("with_unit", [False, True], ids=["only the batch", "beside another unit"])
@pytest.mark.parametrize("poisoned", ["a", "d", "h", "ah", "cdg"])
async def test_only_the_items_at_fault_fail(database: Database, poisoned: str, with_unit: bool) -> None:
    work = Writing(database, poisoned, gate := Gate())
    first = begin(work, ["first"])
    await gate.reached.wait()
    beside = [asyncio.create_task(database.write(lambda c: plan_task(c, "beside")))] if with_unit else []
    others = begin(work, "abcdefgh")
    await all_waiting()
    gate.open()
    results = (await all_of([*first, *others, *beside]))[1:9]

    valid = [name for name in "abcdefgh" if name not in poisoned]
    assert [result for result in results if isinstance(result, str)] == [f"wrote {name}" for name in valid]
    failures = [result for result in results if isinstance(result, KeyError)]
    assert [failure.args for failure in failures] == [(name,) for name in poisoned]
    assert await stored(database) == {"first", *valid} | ({"beside"} if with_unit else set())
    assert sorted(work.hooks_run) == sorted(["first", *valid])


async def test_a_batch_in_which_all_items_fail_stores_nothing(database: Database) -> None:
    work = Writing(database, "abcde", gate := Gate())
    results = await after_the_first(work, gate, "abcde")

    assert [(type(result), result.args) for result in results] == [(KeyError, (name,)) for name in "abcde"]
    assert work.hooks_run == ["first"]
    assert await stored(database) == {"first"}


async def test_the_caller_of_a_single_item_receives_its_error(database: Database) -> None:
    with pytest.raises(KeyError, match="a"):
        await Writing(database, "a").add("a")

    assert await Writing(database).add("a") == "wrote a"


async def test_a_stop_iteration_in_a_batch_reaches_the_caller_as_a_runtime_error(database: Database) -> None:
    def work(_connection: Connection, _items: Sequence[str]) -> list[str]:
        return [next(iter(()))]

    async with asyncio.timeout(30):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await database.batcher(work).add("a")


async def test_the_hooks_of_a_batch_that_is_run_again_run_once(database: Database) -> None:
    failures = [ValueError("this time")]

    def fail_once(_connection: Connection) -> None:
        if len(work.batches) > 1 and failures:
            raise failures.pop()

    work = Writing(database, gate=(gate := Gate()), after=fail_once)
    results = await after_the_first(work, gate, "abc")

    assert results == ["wrote a", "wrote b", "wrote c"]
    assert work.hooks_run == ["first", "a", "b", "c"]


async def test_on_sqlite_the_hooks_of_a_batch_whose_first_commit_fails_run_once(
    sqlite: Database,
) -> None:
    def prepare(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)").close()
        connection.exec_driver_sql(
            "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        ).close()

    def break_the_first_commit(connection: Connection) -> None:
        if len(work.batches) == 1:
            connection.exec_driver_sql("INSERT INTO child VALUES (1)").close()

    await sqlite.write(prepare)
    work = Writing(sqlite, after=break_the_first_commit)
    result = await work.add("a")

    assert (result, work.batches, work.hooks_run) == ("wrote a", [["a"], ["a"]], ["a"])


async def test_on_sqlite_the_hooks_of_a_batch_that_never_commits_do_not_run_with_the_next_unit(
    sqlite: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process locks the file between the two tries of the batch, so the second cannot begin."""
    monkeypatch.setattr("app.db.engine.sqlite._BUSY_S", 0)
    taken: list[sqlite3.Connection] = []

    def lock_the_file(connection: Connection) -> None:
        connection.rollback()
        taken.append(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), check_same_thread=False))
        taken[0].execute("BEGIN IMMEDIATE")
        raise ValueError

    work = Writing(sqlite, after=lock_the_file)
    with pytest.raises(Unavailable):
        await work.add("a")
    with closing(taken[0]) as other:
        other.rollback()
    await sqlite.write(lambda connection: plan_task(connection, "b"))

    assert work.hooks_run == []
    assert await stored(sqlite) == {"b"}


async def test_items_that_exceed_one_batch_are_all_written(database: Database) -> None:
    work = Writing(database, gate=(gate := Gate()))
    names = [f"{number:04}" for number in range(600)]
    results = await after_the_first(work, gate, names)

    assert results == [f"wrote {name}" for name in names]
    assert [name for batch in work.batches for name in batch] == ["first", *names]
    assert len(await stored(database)) == 601


async def test_a_cancelled_caller_rolls_nothing_back_and_blocks_no_other_caller(database: Database) -> None:
    work = Writing(database, gate=(gate := Gate()))
    calls = begin(work, ["first"])
    await gate.reached.wait()
    calls += begin(work, "abc")
    await all_waiting()
    calls[0].cancel()  # is being written
    calls[2].cancel()  # waits
    await all_waiting()
    gate.open()
    results = await all_of(calls)

    assert [type(result) for result in results] == [asyncio.CancelledError, str, asyncio.CancelledError, str]
    assert await stored(database) == {"first", "a", "b", "c"}
    assert await work.add("d") == "wrote d"


async def test_a_batch_contains_the_items_of_one_work_only(database: Database) -> None:
    gate = Gate()
    one, other = Writing(database, gate=gate), Writing(database)
    calls = begin(one, ["first"])
    await gate.reached.wait()
    for name in "abc":
        calls += [*begin(one, [name]), *begin(other, [name.upper()])]
    await all_waiting()
    gate.open()
    await all_of(calls)

    assert one.batches == [["first"], ["a", "b", "c"]]
    assert [name for batch in other.batches for name in batch] == ["A", "B", "C"]
    assert await stored(database) == {"first", *"abcABC"}


async def test_on_sqlite_a_batch_does_not_wait_for_many_single_units(sqlite: Database) -> None:
    gate, order = Gate(), list[str]()
    blocked = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()
    singles = [asyncio.create_task(sqlite.write(lambda _: order.append("single"))) for _ in range(50)]
    await all_waiting()
    written = Writing(sqlite, after=lambda _: order.append("batch"))
    calls = begin(written, ["late"])
    await all_waiting()
    gate.open()
    await asyncio.gather(blocked, *singles, *calls)

    assert order.index("batch") <= 4
    assert order.count("single") == 50


async def test_on_sqlite_waiting_batches_and_single_units_alternate(sqlite: Database) -> None:
    gate, order = Gate(), list[str]()
    blocked = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()
    singles = [asyncio.create_task(sqlite.write(lambda _: order.append("single"))) for _ in range(6)]
    works = [Writing(sqlite, after=lambda _: order.append("batch")) for _ in range(4)]
    calls = [call for number, work in enumerate(works) for call in begin(work, [f"{number}"])]
    await all_waiting()
    gate.open()
    await asyncio.gather(blocked, *singles, *calls)

    assert order == ["batch", "single"] * 3 + ["batch"] + ["single"] * 3


async def test_on_sqlite_one_single_unit_of_each_owner_comes_between_two_batches(sqlite: Database) -> None:
    gate, order = Gate(), list[str]()

    async def write(name: str) -> None:
        owner.set(name)
        await sqlite.write(lambda _: order.append(name))

    blocked = asyncio.create_task(sqlite.write(gate.hold))
    await gate.reached.wait()
    singles = [asyncio.create_task(write(name)) for name in "aaabb"]
    works = [Writing(sqlite, after=lambda _: order.append("batch")) for _ in range(3)]
    calls = [call for number, work in enumerate(works) for call in begin(work, [f"{number}"])]
    await all_waiting()
    gate.open()
    await asyncio.gather(blocked, *singles, *calls)

    assert order == ["batch", "a", "b", "batch", "a", "b", "batch", "a"]


async def test_on_sqlite_a_batch_waits_for_one_single_unit_of_a_transaction(
    sqlite: Database,
) -> None:
    before, during, order = Gate(), Gate(), list[str]()

    def single(connection: Connection) -> None:
        if not order:
            during.hold(connection)
        order.append("single")

    blocked = asyncio.create_task(sqlite.write(before.hold))
    await before.reached.wait()
    singles = [asyncio.create_task(sqlite.write(single)) for _ in range(4)]
    await all_waiting()
    before.open()
    await during.reached.wait()
    calls = begin(Writing(sqlite, after=lambda _: order.append("batch")), ["late"])
    await all_waiting()
    during.open()
    await asyncio.gather(blocked, *singles, *calls)

    assert order == ["single", "batch", "single", "single", "single"]


async def test_listeners_are_called_once_for_a_batch_after_its_commit(database: Database) -> None:
    seen = await signals_to(database)
    during: list[int] = []

    def notify(connection: Connection) -> None:
        notify_after_commit(connection)
        during.append(len(seen))

    work = Writing(database, gate=(gate := Gate()), after=notify)
    await after_the_first(work, gate, "abc")
    await database.write(lambda _: None)  # the writer calls the listeners before it takes this unit

    assert (during, len(seen)) == ([0, 1], 2)


async def test_listeners_are_not_called_for_a_batch_that_is_rolled_back(database: Database) -> None:
    seen = await signals_to(database)

    def work(connection: Connection, _: Sequence[str]) -> list[str]:
        notify_after_commit(connection)
        raise KeyError

    with pytest.raises(KeyError):
        await database.batcher(work).add("a")
    await database.write(lambda connection: plan_task(connection, "b"))
    await database.write(lambda _: None)

    assert seen == []


async def test_closing_the_database_writes_all_waiting_items(database_url: str) -> None:
    gate = Gate()
    async with open_database(database_url) as database:
        calls = begin(work := Writing(database, gate=gate), ["first"])
        await gate.reached.wait()
        names = [f"{number}" for number in range(10)]
        calls += begin(work, names, size=2 * MIB)  # too much for one batch
        await all_waiting()
        gate.open()
    results = await all_of(calls)

    assert results == [f"wrote {name}" for name in ("first", *names)]
    assert len(work.batches) > 2
    async with open_database(database_url) as again:
        assert len(await stored(again)) == 11


async def test_a_closed_database_accepts_no_items(database_url: str) -> None:
    async with open_database(database_url) as database:
        work = Writing(database)
    with pytest.raises(Unavailable):
        await work.add("a")


async def test_on_sqlite_an_interrupt_in_a_batch_strands_no_item(sqlite: Database) -> None:
    interrupts = [KeyboardInterrupt]

    def interrupted_once(_: Connection) -> None:
        if interrupts:
            raise interrupts.pop()

    work = Writing(sqlite, after=interrupted_once)
    async with asyncio.timeout(30):
        results = [await work.add(name) for name in "ab"]

    assert results == ["wrote a", "wrote b"]
    assert await stored(sqlite) == {"a", "b"}


async def test_on_sqlite_a_locked_file_is_unavailable_to_all_items_of_a_batch(
    sqlite: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Writing(sqlite)
    monkeypatch.setattr("app.db.engine.sqlite._BUSY_S", 0.1)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as backup:
        backup.execute("BEGIN IMMEDIATE")
        refused = await all_of(begin(work, [f"{number}" for number in range(600)]))
        backup.rollback()
    again = await all_of(begin(work, "abc"))

    assert {type(result) for result in refused} == {DatabaseUnavailable}
    assert again == ["wrote a", "wrote b", "wrote c"]
    assert await stored(sqlite) == {"a", "b", "c"}


async def test_on_sqlite_all_items_of_a_batch_fail_if_a_full_disk_rolls_it_back(sqlite: Database) -> None:
    await sqlite.write(make_large)
    gate = Gate()

    def write(connection: Connection, names: Sequence[str]) -> list[str]:
        for name in names:
            if name == "poisoned":
                raise ValueError(name)
            write_much(connection) if name == "large" else plan_task(connection, name)
        return list(names)

    blocked = asyncio.ensure_future(sqlite.write(gate.hold))
    await gate.reached.wait()
    batcher = sqlite.batcher(write)
    calls = [batcher.add(name) for name in ("a", "b", "poisoned", "large")]
    await all_waiting()
    with full_disk(4_000_000):
        gate.open()
        await blocked
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 4
    assert await stored(sqlite) == set()


async def test_on_postgresql_an_unreachable_server_is_unavailable_to_all_items_of_a_batch() -> None:
    async with open_database("postgresql://absent@/none?host=/nowhere") as database:
        refused = await all_of(begin(Writing(database), "abc"))

    assert [type(result) for result in refused] == [DatabaseUnavailable] * 3


async def test_an_item_larger_than_the_limit_is_refused(database: Database) -> None:
    work = Writing(database)
    with pytest.raises(Overloaded):
        await work.add("a", size=65 * MIB)

    assert await work.add("b", size=MIB) == "wrote b"
    assert work.batches == [["b"]]


# The limits of what may wait


async def blocked_work(database: Database, size: int = 0) -> tuple[Writing, Gate, list[asyncio.Task[str]]]:
    """Return a `Work` whose first item is being written until the gate is opened."""
    work = Writing(database, gate=(gate := Gate()))
    calls = begin(work, ["blocked"], size)
    await gate.reached.wait()
    return work, gate, calls


async def test_beyond_the_limit_of_items_the_next_is_refused_until_a_batch_is_taken(database_url: str) -> None:
    async with open_database(database_url, Bounds(items=2)) as database:
        work, gate, calls = await blocked_work(database)
        calls += begin(work, "ab")
        await all_waiting()
        with pytest.raises(Overloaded):
            await work.add("c")
        gate.open()
        results = await all_of(calls)

        assert results == ["wrote blocked", "wrote a", "wrote b"]
        assert await work.add("c") == "wrote c"
        assert await stored(database) == {"blocked", "a", "b", "c"}


async def test_the_batch_that_is_being_written_counts_towards_the_limit_of_bytes(database_url: str) -> None:
    async with open_database(database_url, Bounds(size=10)) as database:
        work, gate, calls = await blocked_work(database, size=6)
        with pytest.raises(Overloaded):
            await work.add("b", 5)
        calls += begin(work, "c", 4)
        await all_waiting()
        with pytest.raises(Overloaded):
            await work.add("d", 1)
        gate.open()
        await all_of(calls)

        assert await work.add("e", 10) == "wrote e"
        assert await stored(database) == {"blocked", "c", "e"}


async def test_refused_and_cancelled_items_do_not_count_towards_the_limits(database_url: str) -> None:
    async with open_database(database_url, Bounds(items=1, size=10)) as database:
        work, gate, calls = await blocked_work(database)
        (cancelled,) = begin(work, "a", 10)
        await all_waiting()
        for _ in range(3):
            with pytest.raises(Overloaded):
                await work.add("b", 10)
        cancelled.cancel()
        await all_waiting()
        gate.open()
        await all_of([*calls, cancelled])

        async def is_accepted() -> bool:
            try:
                return await work.add("c", 10) == "wrote c"
            except Overloaded:  # the cancelled item is still being written
                return False

        await until(is_accepted)
