"""Rows of all types, in any number, are read back as they were written, through the tables that use `Bulk`."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, TypeVar

import pytest
from sqlalchemy import event, select

from app import jobs
from app.db import Connection
from app.db.engine import feed_order
from app.db.engine.bulk import DeferredWrites
from app.db.engine.columns import by_key
from app.db.engine.database import Database
from app.db.queries import attempt_contexts
from app.db.queries.apply_changes import TaskChange, apply_changes
from app.db.tables import attempts, events, evidence, slots, tasks
from app.db.tables.evidence import NewEvidence
from app.jobs import NewJob, Step
from app.rules.task import Effect, Failure, MoneySpent, Outcome, Said, Status, Witness
from app.security.verify import Verdict
from tests.databases import statements
from tests.rows import START, put_account, put_sent_task, stored_jobs, take_slot, write_now

T = TypeVar("T")
SIZES = [1, 2, 3, 17, 100]
TEXTS = ["plain", "", 'it\'s "quoted"', "ünï ✓ 🦊", r"{back\slash, %s :name ?}", "NULL", "two\nlines\t", "x" * 5000]
BODIES = [b"{}", b"", bytes(range(256)), b"\x00", b"'", "ü".encode(), bytes(100_000)]
ZONES = [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))]
MICROSECONDS = [0, 1, 999_999, 500_000]
DOCUMENTS: list[Any] = [{}, {"a": 'ü"\\'}, {"nested": [1, 2.5, None, True, {"b": []}]}, [], [1, "two", {"three": 3}]]
FLOATS = [0.0, 4.5, 0.1 + 0.2, 1e-300, 1.7e308, -1.0]
NUMBERS = [200, 0, -1, 2**31 - 1, -(2**31)]


def pick(values: Sequence[T], number: int) -> T:
    return values[number % len(values)]


def instant(number: int) -> datetime:
    """Return an instant with microseconds in one of several zones, later than that of the number before."""
    at = START + timedelta(seconds=number, microseconds=pick(MICROSECONDS, number))
    return at.astimezone(pick(ZONES, number))


def every(table: Any, *order: Any) -> Callable[[Connection], list[dict[str, Any]]]:
    return lambda connection: [by_key(table, row) for row in connection.execute(select(table).order_by(*order))]


def new_evidence(number: int) -> NewEvidence:
    return NewEvidence(
        id=f"ev_{number:03}",
        attempt_id=f"sub_{number}",
        witness=pick(list(Witness), number),
        verdict=pick(list(Verdict), number),
        digest=hashlib.sha256(str(number).encode()).hexdigest(),
        said=pick(list(Said), number),
        effect=pick(list(Effect), number),
        detail=pick([*TEXTS, None], number),
        http_status=pick([*NUMBERS, None], number),
        headers=json.dumps({f"x-{number}": pick(TEXTS, number)}),
        copies=number + 1,
        received_at=instant(number),
        last_received_at=instant(number + 1),
        body=pick(BODIES, number),
    )


@pytest.mark.parametrize("size", SIZES)
async def test_evidence_is_read_back_as_it_was_written(database: Database, size: int) -> None:
    rows = [new_evidence(number) for number in range(size)]
    await database.write(write_now, evidence.upsert, rows)
    found = await database.read(every(evidence.evidence, evidence.evidence.c.id))

    assert found == [{**row._asdict(), "headers": json.loads(row.headers)} for row in rows]
    assert {row["received_at"].tzinfo for row in found} == {UTC}


async def test_instants_of_different_zones_sort_by_time(database: Database) -> None:
    rows = [new_evidence(number) for number in range(17)]
    await database.write(write_now, evidence.upsert, rows)
    found = await database.read(every(evidence.evidence, evidence.evidence.c.received_at))

    assert [row["id"] for row in found] == [row.id for row in rows]


@pytest.mark.parametrize("size", SIZES)
async def test_existing_evidence_counts_its_copies_among_new_rows(database: Database, size: int) -> None:
    rows = [new_evidence(number) for number in range(size)]
    await database.write(write_now, evidence.upsert, rows[::2])
    await database.write(write_now, evidence.upsert, rows)
    found = await database.read(every(evidence.evidence, evidence.evidence.c.id))

    assert [row["copies"] for row in found] == [(number + 1) * (1 if number % 2 else 2) for number in range(size)]


@pytest.mark.parametrize("size", SIZES)
async def test_callbacks_are_counted_for_each_requested_attempt(database: Database, size: int) -> None:
    def callback(number: int, copy: int) -> NewEvidence:
        digest = f"{number}-{copy}"
        told = new_evidence(number)._replace(witness=Witness.CALLBACK, verdict=Verdict.FORGED)
        return told._replace(id=f"ev_{digest}", digest=digest)

    rows = [callback(number, copy) for number in range(size) for copy in range((number + 1) % 3)]
    await database.write(write_now, evidence.upsert, rows)
    asked = [(f"sub_{number}", str(Verdict.FORGED)) for number in range(size)]
    found = await database.read(lambda connection: evidence.count_callbacks(connection, asked))

    assert found == {of: (number + 1) % 3 for number, of in enumerate(asked)}


def learned_of_task(number: int) -> dict[str, Any]:
    """Return the changes to a task from one piece of evidence: some columns always, others only for some numbers."""
    told: dict[str, Any] = {"cost": pick(FLOATS, number), "tries": number % 2}
    if number % 3:
        told |= {"seed": str(10 ** (number % 40)), "sample_url": pick(TEXTS, number)}
        told |= {"status": Status.READY, "ready_at": instant(number), "sample_expires_at": instant(number + 600)}
    elif number % 2:
        told |= {"status": Status.FAILED, "failure": pick(list(Failure), number), "failure_detail": pick(TEXTS, number)}
        told |= {"money_spent": pick(list(MoneySpent), number), "failed_at": instant(number)}
    return told


@pytest.mark.parametrize("size", SIZES)
async def test_changes_of_tasks_leave_the_other_columns_unchanged(database: Database, size: int) -> None:
    changes = {f"task_{number}": learned_of_task(number) for number in range(size)}

    def unit(connection: Connection) -> None:
        for number in range(size + 1):
            put_sent_task(connection, f"{number}")
        write_now(connection, apply_changes, {task_id: TaskChange(**values) for task_id, values in changes.items()})

    await database.write(unit)
    found = {row["id"]: row for row in await database.read(every(tasks.tasks, tasks.tasks.c.id))}
    untouched = found.pop(f"task_{size}")

    assert {task_id: {name: row[name] for name in changes[task_id]} for task_id, row in found.items()} == changes
    silent = {"cost", "status", "sample_url", "sample_expires_at", "seed", "failure", "failure_detail", "ready_at"}
    for task_id, row in found.items():
        for name in silent - changes[task_id].keys():
            assert row[name] == untouched[name]
    assert (untouched["cost"], untouched["status"], untouched["tries"]) == (None, Status.SUBMITTING, 0)


async def test_the_cost_of_a_task_is_added_and_a_missing_cost_adds_nothing(database: Database) -> None:
    def unit(connection: Connection) -> None:
        for name in "ab":
            put_sent_task(connection, name)
        write_now(connection, apply_changes, {"task_a": TaskChange(cost=4.5, tries=1), "task_b": TaskChange(cost=1.0)})
        write_now(connection, apply_changes, {"task_a": TaskChange(cost=0.25), "task_b": TaskChange(tries=2)})

    await database.write(unit)
    found = await database.read(every(tasks.tasks, tasks.tasks.c.id))

    assert [(row["cost"], row["tries"]) for row in found] == [(4.75, 1), (1.0, 2)]


def learned_of_attempt(number: int) -> dict[str, Any]:
    told: dict[str, Any] = {"provider_id": f"p{number}", "detail": pick(TEXTS, number), "answered_at": instant(number)}
    if number % 2:
        told |= {"outcome": pick(list(Outcome), number), "polling_url": pick(TEXTS, number)}
        told |= {"cost": pick(FLOATS, number)}
    return told


@pytest.mark.parametrize("size", SIZES)
async def test_changes_of_attempts_leave_the_other_columns_unchanged(database: Database, size: int) -> None:
    changes = {f"sub_{number}": learned_of_attempt(number) for number in range(size)}

    def unit(connection: Connection) -> None:
        for number in range(size + 1):
            put_sent_task(connection, f"{number}")
        write_now(
            connection,
            attempts.apply_changes,
            {name: attempts.AttemptChange(**values) for name, values in changes.items()},
        )

    await database.write(unit)
    found = {row["id"]: row for row in await database.read(every(attempts.attempts))}
    untouched = found.pop(f"sub_{size}")

    assert {name: {of: row[of] for of in changes[name]} for name, row in found.items()} == changes
    assert {row["outcome"] for name, row in found.items() if "outcome" not in changes[name]} <= {Outcome.UNKNOWN}
    assert (untouched["provider_id"], untouched["outcome"], untouched["answered_at"]) == (None, Outcome.UNKNOWN, None)


@pytest.mark.parametrize("size", SIZES)
async def test_attempts_are_found_with_their_tasks_and_unknown_ids_are_skipped(database: Database, size: int) -> None:
    def unit(connection: Connection) -> dict[str, attempt_contexts.AttemptContext]:
        put_account(connection, account=200)
        for number in range(size):
            put_sent_task(connection, f"{number}", webhook_url="https://a.example/" if number % 2 else None)
            if number % 3 == 0:
                take_slot(connection, f"{number}", number + 1)
        write_now(
            connection,
            apply_changes,
            {f"task_{number}": TaskChange(cost=pick(FLOATS, number)) for number in range(size)},
        )
        write_now(
            connection,
            attempts.apply_changes,
            {f"sub_{number}": attempts.AttemptChange(cost=pick(FLOATS, number)) for number in range(size)},
        )
        wanted = [name for number in range(size) for name in (f"sub_{number}", f"sub_unknown_{number}")]
        return attempt_contexts.lock_attempts(connection, wanted)

    found = await database.write(unit)

    assert {name: (attempt.task_id, attempt.has_webhook, attempt.has_slot) for name, attempt in found.items()} == {
        f"sub_{number}": (f"task_{number}", number % 2 == 1, number % 3 == 0) for number in range(size)
    }
    # The JSON document of SQLite has fifteen digits; the code only checks whether a cost is known.
    assert {name: attempt.state.cost for name, attempt in found.items()} == {
        f"sub_{number}": pytest.approx(pick(FLOATS, number), rel=1e-14) for number in range(size)
    }
    assert {(attempt.state.status, attempt.state.outcome) for attempt in found.values()} == {
        (Status.SUBMITTING, Outcome.UNKNOWN)
    }


@pytest.mark.parametrize("size", SIZES)
async def test_events_are_read_back_as_they_were_written_and_in_order(database: Database, size: int) -> None:
    new_events = [
        events.NewEvent(
            kind=f"kind.{number * 7 % 100}",
            task_id=f"task_{number % 2}",
            data=json.dumps(pick(DOCUMENTS, number)),
            at=instant(size - number),
        )
        for number in range(size)
    ]

    def unit(connection: Connection) -> None:
        for name in "01":
            put_sent_task(connection, name, key_id=f"key_{name}")
        write_now(connection, events.append, new_events)

    await database.write(unit)
    page = await database.read(lambda connection: events.following(connection, feed_order.START, 1000))
    owners = await database.read(every(events.events, events.events.c.sequence))

    found = [(event.kind, event.task_id, event.data, event.at) for event in page.events]
    assert found == [(new.kind, new.task_id, json.loads(new.data), new.at) for new in new_events]
    assert [row["key_id"] for row in owners] == [f"key_{number % 2}" for number in range(size)]


@pytest.mark.parametrize("size", SIZES)
async def test_a_job_that_is_enqueued_repeatedly_keeps_the_earliest_time(database: Database, size: int) -> None:
    new_jobs = [NewJob(pick(list(Step), number), f"task_{number}", instant(number)) for number in range(size)]
    earlier = [job._replace(run_at=job.run_at - timedelta(days=1)) for job in new_jobs[::2]]
    later = [job._replace(run_at=job.run_at + timedelta(days=1)) for job in new_jobs]
    for rows in (new_jobs, earlier, later):
        await database.write(lambda connection, rows=rows: jobs.enqueue(connection, rows))  # type: ignore[misc]
    found = await database.read(stored_jobs)

    expected = {(job.step, job.task_id): job.run_at for job in [*new_jobs, *earlier]}
    assert {(job.step, job.task_id): job.run_at for job in found} == expected
    assert (len(found), {job.state for job in found}) == (size, {"waiting"})


@pytest.mark.parametrize("size", SIZES)
async def test_only_the_slots_of_the_listed_tasks_are_freed(database: Database, size: int) -> None:
    def unit(connection: Connection) -> list[Any]:
        put_account(connection, account=200)
        for number in range(size + 1):
            take_slot(connection, f"{number}", number + 1)
        slots.release(connection, [f"task_{number}" for number in range(size)])
        return list(slots.of_accounts(connection, "account"))

    assert len(await database.write(unit)) == 1


async def test_deferred_writes_run_when_they_are_sent_and_on_postgresql_as_one_statement(database: Database) -> None:
    def unit(connection: Connection) -> tuple[int, int, int]:
        put_sent_task(connection)
        writes = DeferredWrites(connection)
        with statements(database) as sent:
            evidence.upsert(writes, [new_evidence(1)])
            apply_changes(writes, {"task_1": TaskChange(seed="7")})
            before = len(sent)
            writes.send()
            after = len(sent)
            writes.send()
        return before, after, len(sent)

    at_once = 1 if database.dialect.name == "postgresql" else 2

    assert await database.write(unit) == (0, at_once, at_once)
    (task,) = await database.read(every(tasks.tasks))
    assert (len(await database.read(every(evidence.evidence))), task["seed"]) == (1, "7")


async def test_statement_listeners_are_called_for_bulk_statements(database: Database) -> None:
    heard: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        heard.append(statement)

    def unit(connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", note)
        slots.release(connection, ["task_1"])
        event.remove(connection, "before_cursor_execute", note)

    await database.write(unit)

    assert [statement.startswith("DELETE FROM slots") for statement in heard] == [True]
