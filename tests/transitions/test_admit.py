"""Admission: which task gets a slot and when, and that the provider's limits are never exceeded."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text, update
from sqlalchemy.util import await_only

from app import jobs
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.queries import queue
from app.db.tables import applications, attempts, provider_accounts, slots, tasks
from app.db.tables.evidence import Evidence
from app.jobs import Step
from app.provider import ProviderResponse
from app.rules.task import Failure, MoneySpent, Outcome, Report, Said, Status, Witness
from app.security.verify import Verdict
from app.settle import settle
from app.transitions import moves
from app.transitions.admit import admit, readmit
from app.twin import Faults
from tests.profiles import examples
from tests.rows import START, drop_jobs, newest_tasks, plan_task, put_account, stored_jobs, write_now
from tests.world import World

PRO, MAX = "flux-kontext-pro", "flux-kontext-max"
BUSY = ProviderResponse(Report(Said.BUSY, detail="Too many active tasks"), 429)
TAKEN = ProviderResponse(Report(Said.PENDING, "p1", cost=4.0), 200, {}, b'{"id": "p1"}')


def admitted(connection: Connection) -> list[str]:
    """Return the names of the tasks that have a slot, in the order in which they would run."""
    found = slots.of_accounts(connection, "account")
    return [slot.task_id.removeprefix("task_") for slot in sorted(found, key=lambda slot: slot.number)]


def leave(connection: Connection, name: str) -> None:
    """End the task."""
    moves.give_up(connection, f"task_{name}", Failure.PROVIDER_ERROR, MoneySpent.NO, "over", START)


def settle_in(connection: Connection, limits: dict[str, Any], waiting: Sequence[tuple[str, dict[str, Any]]]) -> None:
    put_account(connection, **limits)
    for name, changes in waiting:
        plan_task(connection, name, **changes)


async def one_slot(database: Database, *waiting: tuple[str, dict[str, Any]]) -> list[str]:
    """Return the order in which these tasks get the only slot."""

    def unit(connection: Connection) -> list[str]:
        settle_in(connection, {"account": 1}, waiting)
        admit(connection, START)
        order = []
        while held := admitted(connection):
            order += held
            leave(connection, *held)
        return order

    return await database.write(unit)


async def test_a_task_has_a_dispatch_job_exactly_if_it_has_a_slot(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[str], set[str]]:
        settle_in(connection, {"account": 2}, [(name, {}) for name in "abc"])
        admit(connection, START)
        names = {f"task_{name}" for name in "abc"}
        return admitted(connection), jobs.scheduled(connection, Step.DISPATCH, names)

    assert await database.write(unit) == (["a", "b"], {"task_a", "task_b"})


async def test_a_freed_slot_goes_to_the_next_task_in_the_same_transaction(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[str], list[str]]:
        settle_in(connection, {"account": 1}, [("a", {}), ("b", {})])
        admit(connection, START)
        before = admitted(connection)
        leave(connection, "a")
        return before, admitted(connection)

    assert await database.write(unit) == (["a"], ["b"])


async def test_priority_takes_precedence_over_arrival(database: Database) -> None:
    order = await one_slot(database, ("a", {}), ("b", {"priority": 9}), ("c", {"priority": 5}), ("d", {}))

    assert order == ["b", "c", "a", "d"]


async def test_tasks_of_equal_priority_are_admitted_in_order_of_arrival(database: Database) -> None:
    assert await one_slot(database, *((name, {}) for name in "badc")) == ["a", "b", "c", "d"]


async def test_api_keys_take_turns_however_many_tasks_one_of_them_has(database: Database) -> None:
    def unit(connection: Connection) -> Counter[str]:
        greedy = [(f"a{number:02}", {"key_id": "key_greedy"}) for number in range(50)]
        settle_in(connection, {}, [*greedy, *((f"b{number}", {"key_id": "key_modest"}) for number in range(3))])
        admit(connection, START)
        return Counter(name[0] for name in admitted(connection))

    assert await database.write(unit) == {"a": 21, "b": 3}


async def test_an_api_key_with_tasks_in_flight_waits_for_one_without(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        settle_in(connection, {"account": 3}, [(f"a{number}", {"key_id": "key_greedy"}) for number in range(4)])
        admit(connection, START)
        plan_task(connection, "b", key_id="key_modest")
        leave(connection, "a0")
        return sorted(admitted(connection))

    assert await database.write(unit) == ["a1", "a2", "b"]


def limit_in_flight(connection: Connection, name: str, limit: int) -> None:
    """Limit the tasks in flight of the application of `key_NAME`."""
    applications.ensure(connection, f"app_{name}", name, START)
    table = applications.applications
    connection.execute(update(table).where(table.c.id == f"app_{name}").values(limits={"in_flight": limit}))


async def test_an_application_gets_no_more_slots_than_its_limit_and_the_next_when_one_is_free(
    database: Database,
) -> None:
    def unit(connection: Connection) -> list[list[str]]:
        waiting = [(name, {"key_id": f"key_{name[0]}"}) for name in ("a1", "a2", "a3", "b1", "b2")]
        settle_in(connection, {"account": 4}, waiting)
        limit_in_flight(connection, "a", 1)
        limit_in_flight(connection, "c", 0)
        plan_task(connection, "c1", key_id="key_c", priority=9)
        admit(connection, START)
        first = admitted(connection)
        leave(connection, "a1")
        return [sorted(first), sorted(admitted(connection))]

    assert await database.write(unit) == [["a1", "b1", "b2"], ["a2", "b1", "b2"]]


async def test_a_task_whose_model_has_no_slot_does_not_use_up_the_limit_of_its_application(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        limits = {"account": 4, "flux-kontext-max": 1}
        waiting = [("1", {"model": MAX}), ("2", {"model": MAX}), ("3", {"model": PRO})]
        settle_in(connection, limits, [(name, {"key_id": "key_a", **changes}) for name, changes in waiting])
        limit_in_flight(connection, "a", 2)
        admit(connection, START)
        return admitted(connection)

    assert sorted(await database.write(unit)) == ["1", "3"]


async def test_priority_takes_precedence_over_fairness(database: Database) -> None:
    greedy: list[tuple[str, dict[str, Any]]] = [
        (f"a{number}", {"key_id": "key_greedy", "priority": 1}) for number in range(3)
    ]

    assert await one_slot(database, *greedy, ("b", {"key_id": "key_modest"})) == ["a0", "a1", "a2", "b"]


async def test_kontext_max_waits_at_its_own_limit_and_pro_continues(database: Database) -> None:
    def unit(connection: Connection) -> Counter[str]:
        waiting = [(f"m{number:02}", {"model": MAX, "priority": 9}) for number in range(30)]
        settle_in(connection, {}, [*waiting, *((f"p{number:02}", {}) for number in range(30))])
        admit(connection, START)
        return Counter(name[0] for name in admitted(connection))

    assert await database.write(unit) == {"m": 6, "p": 18}


async def test_accounts_do_not_take_each_others_slots(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, int]:
        for name in ("account", "other"):
            put_account(connection, name, account=2)
            for number in range(4):
                plan_task(connection, f"{name}{number}", account_id=name)
        admit(connection, START)
        return {name: len(slots.of_accounts(connection, name)) for name in ("account", "other")}

    assert await database.write(unit) == {"account": 2, "other": 2}


async def test_a_delayed_task_is_skipped_until_its_time(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[str], list[str]]:
        settle_in(connection, {}, [("a", {"dispatch_after_at": START + timedelta(seconds=5)}), ("b", {})])
        admit(connection, START)
        before = admitted(connection)
        admit(connection, START + timedelta(seconds=5))
        return before, admitted(connection)

    assert await database.write(unit) == (["b"], ["b", "a"])


async def test_a_task_that_is_newer_than_the_transaction_is_not_skipped(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        settle_in(connection, {}, [("late", {"at": START + timedelta(seconds=3)})])
        admit(connection, START)  # a clock that was read before the lock was acquired, or on another host
        return admitted(connection)

    assert await database.write(unit) == ["late"]


async def test_no_task_is_admitted_to_a_paused_or_an_unknown_account(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[str], list[str]]:
        settle_in(connection, {}, [("a", {})])
        provider_accounts.pause(
            connection, "account", START, START + timedelta(seconds=9), provider_accounts.NO_FREE_SLOT, 1
        )
        admit(connection, START)
        admit(connection, START + timedelta(seconds=8))
        before = admitted(connection)
        admit(connection, START + timedelta(seconds=9))
        return before, admitted(connection)

    assert await database.write(unit) == ([], ["a"])


# Any events in any order

arrivals = st.tuples(
    st.just("arrive"), st.sampled_from([PRO, MAX]), st.integers(0, 2), st.sampled_from(["key_1", "key_2"])
)
endings = st.tuples(st.just("end"), st.integers(0, 99))
happenings = st.lists(st.one_of(arrivals, arrivals, endings), max_size=60)


@examples(25)
@given(happenings=happenings, most=st.integers(1, 8), most_max=st.integers(1, 4))
def test_in_any_order_of_events_limits_hold_and_no_usable_slot_stays_free(
    sqlite_template: Path, happenings: list[tuple[object, ...]], most: int, most_max: int
) -> None:
    engine = create_engine(f"sqlite:///{sqlite_template}")
    with engine.connect() as connection:  # never commits
        put_account(connection, account=most, flux_kontext_max=most_max)
        for number, happening in enumerate(happenings):
            _happen(connection, number, happening)
            _check_limits(connection, most, most_max)
    engine.dispose()


def _happen(connection: Connection, number: int, happening: tuple[object, ...]) -> None:
    match happening:
        case ("arrive", model, priority, key_id):
            plan_task(connection, f"{number:03}", model=model, priority=priority, key_id=key_id)
            admit(connection, START)
        case ("end", int(which)):
            if held := admitted(connection):
                leave(connection, held[which % len(held)])


def _check_limits(connection: Connection, most: int, most_max: int) -> None:
    held = slots.of_accounts(connection, "account")
    of_max = sum(slot.model == MAX for slot in held)
    queued = newest_tasks(connection, 100, statuses=(Status.QUEUED,))
    waiting = [task for task in queued if not queue.is_admitted(connection, task.id)]
    assert len(held) <= most
    assert of_max <= most_max
    assert {slot.number for slot in held} <= set(range(1, most + 1))
    if len(held) < most:
        assert all(task.model == MAX for task in waiting)
        assert not waiting or of_max == most_max


async def test_two_processes_admitting_at_once_keep_the_limit_and_lose_no_wakeup(postgres_url: str) -> None:
    """Two connection pools on one database are as independent as two processes."""
    most: list[int] = []

    async def live(database: Database, name: str) -> None:
        def arrive(connection: Connection) -> None:
            plan_task(connection, name)
            admit(connection, START)

        await database.write(arrive)
        held: list[str] = []
        while name not in held:
            held = await database.read(admitted)
            most.append(len(held))
        await database.write(lambda connection: leave(connection, name))

    async with open_database(postgres_url) as first, open_database(postgres_url) as second, asyncio.timeout(120):
        await first.write(lambda connection: put_account(connection, account=5))
        processes = ((first, "first"), (second, "second"))
        await asyncio.gather(*(live(on, f"{number:02}_{name}") for number in range(20) for on, name in processes))
        left = await second.read(admitted)

    assert max(most) <= 5
    assert left == []


@asynccontextmanager
async def undecided(database: Database, work: Callable[[Connection], object]) -> AsyncGenerator[asyncio.Event]:
    """Run this in another transaction and keep it open. Setting the event rolls it back."""
    done, may_end, is_undone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def unit(connection: Connection) -> None:
        work(connection)
        done.set()
        await_only(may_end.wait())
        if is_undone.is_set():
            raise KeyError

    running = asyncio.create_task(database.write(unit))
    await done.wait()
    try:
        yield is_undone
    finally:
        may_end.set()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("undone", [False, True])
async def test_on_postgresql_a_task_that_is_being_cancelled_gets_no_slot_and_is_checked_again(
    postgres_url: str, undone: bool
) -> None:
    async with open_database(postgres_url) as database, asyncio.timeout(120):
        waiting: list[tuple[str, dict[str, Any]]] = [("a", {}), ("b", {})]
        await database.write(lambda connection: settle_in(connection, {"account": 1}, waiting))
        await database.write(lambda connection: admit(connection, START))
        async with undecided(database, lambda connection: moves.cancel(connection, "task_b", START)) as is_undone:
            await database.write(lambda connection: leave(connection, "a"))
            meanwhile = await database.read(admitted)
            if undone:
                is_undone.set()
        left = await database.read(lambda connection: {job.step for job in stored_jobs(connection)})
        await database.write(lambda connection: admit(connection, START))

        assert meanwhile == []
        assert Step.ADMIT in left
        assert await database.read(admitted) == (["b"] if undone else [])


async def test_on_postgresql_a_slot_given_to_a_task_that_becomes_ready_is_freed(postgres_url: str) -> None:
    """A callback proves that a refused attempt was accepted, while its task gets a slot for the next one."""

    def refused(connection: Connection) -> None:
        settle_in(connection, {"account": 1}, [("a", {})])
        attempts.mark_sent(connection, "sub_a", START, callback_requested=True)
        write_now(connection, attempts.apply_changes, {"sub_a": attempts.AttemptChange(outcome=Outcome.REFUSED)})

    ready = Report(Said.READY, "p1", sample_url="https://bfl.ai/1")
    proof = Evidence("sub_a", Witness.CALLBACK, Verdict.SIGNED, proven=True, report=ready, body=b"", received_at=START)
    async with open_database(postgres_url) as database, asyncio.timeout(120):
        await database.write(refused)
        async with undecided(database, lambda connection: admit(connection, START)):
            settling = asyncio.create_task(
                database.write(lambda connection: settle(connection, [proof], poll_after=timedelta()))
            )
            while not await database.read(lambda connection: connection.execute(_SOMEBODY_WAITS).scalar_one()):
                pass
        await settling

        assert (await database.read(lambda connection: newest_tasks(connection, 1)))[0].status is Status.READY
        assert await database.read(admitted) == []


_SOMEBODY_WAITS = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")


async def test_on_postgresql_a_slot_goes_to_the_task_after_one_that_is_being_cancelled(postgres_url: str) -> None:
    async with open_database(postgres_url) as database, asyncio.timeout(120):
        waiting: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in "abc"]
        await database.write(lambda connection: settle_in(connection, {"account": 2}, waiting))
        async with undecided(database, lambda connection: moves.cancel(connection, "task_a", START)):
            await database.write(lambda connection: admit(connection, START))

        assert await database.read(admitted) == ["b", "c"]


async def test_an_admit_job_that_runs_early_runs_again(world: World) -> None:
    world.twin.faults = Faults(submit_5xx=1)
    task_id = await world.post()
    await world.work()
    until = await world.use.db.read(lambda connection: tasks.get(connection, task_id))
    assert until is not None
    world.clock.at = until.dispatch_after_at - timedelta(milliseconds=200)
    await world.use.db.write(drop_jobs)
    await readmit(world.use, task_id)
    left = await world.use.db.read(stored_jobs)

    assert [(job.step, job.run_at) for job in left] == [(Step.ADMIT, until.dispatch_after_at)]
