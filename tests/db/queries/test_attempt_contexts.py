from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import attempt_contexts
from app.db.tables import task_updates
from app.rules.task import Status
from tests.rows import START, plan_attempt, plan_task


async def test_locking_attempts_returns_them_with_the_state_of_their_task(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, attempt_contexts.AttemptContext]:
        plan_task(connection)
        plan_attempt(connection, "sub_2", "task_1", number=2)
        task_updates.move(connection, "task_1", Status.SUBMITTING, START, attempt_id="sub_2")
        return attempt_contexts.lock_attempts(connection, {"sub_1", "sub_2", "sub_none"})

    found = await database.write(unit)

    assert found.keys() == {"sub_1", "sub_2"}
    assert [found[name].state.current for name in ("sub_1", "sub_2")] == [False, True]
    assert {attempt.state.status for attempt in found.values()} == {Status.SUBMITTING}
