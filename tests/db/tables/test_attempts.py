from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import attempts, task_updates
from app.rules.task import Outcome, Status
from tests.rows import START, plan_attempt, plan_task, put_sent_task, write_now


async def test_a_planned_attempt_has_no_provider_id_and_was_not_sent(database: Database) -> None:
    def unit(connection: Connection) -> attempts.Attempt | None:
        plan_task(connection)
        return attempts.get(connection, "sub_1")

    attempt = await database.write(unit)

    assert attempt is not None
    assert (attempt.outcome, attempt.provider_id, attempt.sent_at) == (Outcome.PLANNED, None, None)


async def test_an_unknown_attempt_is_none(database: Database) -> None:
    assert await database.read(lambda connection: attempts.get(connection, "sub_none")) is None


async def test_an_attempt_is_marked_as_sent_only_once(database: Database) -> None:
    later = START + timedelta(seconds=9)

    def unit(connection: Connection) -> tuple[bool, bool, attempts.Attempt | None]:
        plan_task(connection)
        first = attempts.mark_sent(connection, "sub_1", START, callback_requested=True)
        second = attempts.mark_sent(connection, "sub_1", later, callback_requested=False)
        return first, second, attempts.get(connection, "sub_1")

    first, second, attempt = await database.write(unit)

    assert (first, second) == (True, False)
    assert attempt is not None
    assert (attempt.outcome, attempt.sent_at, attempt.callback_requested) == (Outcome.UNKNOWN, START, True)


async def test_the_attempts_of_a_task_are_sorted_by_number(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        plan_task(connection)
        plan_attempt(connection, "sub_0", "task_1", number=3)
        plan_attempt(connection, "sub_z", "task_1", number=2)
        plan_task(connection, "2")
        return [attempt.id for attempt in attempts.of_task(connection, "task_1")]

    assert await database.write(unit) == ["sub_1", "sub_z", "sub_0"]


async def test_columns_without_a_new_value_do_not_change(database: Database) -> None:
    def unit(connection: Connection) -> list[attempts.Attempt]:
        for name in ("1", "2"):
            plan_task(connection, name)
        write_now(
            connection,
            attempts.apply_changes,
            {
                "sub_1": attempts.AttemptChange(outcome=Outcome.ACCEPTED, cost=4.0),
                "sub_2": attempts.AttemptChange(detail="x"),
            },
        )
        write_now(connection, attempts.apply_changes, {"sub_1": attempts.AttemptChange(provider_id="abc", cost=None)})
        return [*attempts.of_task(connection, "task_1"), *attempts.of_task(connection, "task_2")]

    first, second = await database.write(unit)

    assert (first.outcome, first.cost, first.provider_id, first.detail) == (Outcome.ACCEPTED, 4.0, "abc", None)
    assert (second.outcome, second.detail) == (Outcome.PLANNED, "x")


async def test_task_ids_are_found_by_attempt_id(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, str]:
        plan_task(connection)
        plan_attempt(connection, "sub_2", "task_1", number=2)
        return attempts.task_ids(connection, {"sub_1", "sub_2", "sub_none"})

    assert await database.write(unit) == {"sub_1": "task_1", "sub_2": "task_1"}


async def test_tasks_at_the_provider_are_counted_by_the_signing_key_of_their_current_attempt(
    database: Database,
) -> None:
    def unit(connection: Connection) -> dict[str, int]:
        for name, signing_key_id in (("1", "new"), ("2", "old"), ("3", "old"), ("4", "old")):
            put_sent_task(connection, name, signing_key_id=signing_key_id)
        plan_attempt(connection, "sub_5", "task_1", number=2, signing_key_id="older")
        plan_task(connection, "6", signing_key_id="planned")
        task_updates.move(connection, "task_4", Status.FAILED, START)
        return attempts.count_in_flight_by_signing_key(connection)

    assert await database.write(unit) == {"new": 1, "old": 2}
