"""The moves of a task that no witness causes: it is being asked for, its image is kept, we give it up.

Together with `settle` these are all the moves there are. Each names, through its fence, the states it may
come from; False means that the task is in none of them, which is a normal outcome.
"""

from datetime import datetime
from typing import Any

from app.record import Connection, results, tasks
from app.task import Failure, MoneySpent, Status


def begin(connection: Connection, task_id: str, submission_id: str, now: datetime) -> bool:
    """The provider is about to be asked, by this attempt."""
    return tasks.move(connection, task_id, Status.SUBMITTING, now, submission_id=submission_id)


def store(connection: Connection, task_id: str, now: datetime, **result: Any) -> bool:
    """The image is on disk: `result` says where and what it is."""
    if not tasks.move(connection, task_id, Status.STORED, now):
        return False
    results.insert(connection, task_id=task_id, stored_at=now, **result)
    return True


def give_up(
    connection: Connection, task_id: str, failure: Failure, spent: MoneySpent, detail: str, now: datetime
) -> bool:
    """Nothing better will be learned of this task."""
    return tasks.move(
        connection,
        task_id,
        Status.FAILED,
        now,
        failure=failure,
        money_spent=spent,
        failure_detail=detail,
    )
