"""The statements that change rows of `tasks` which exist already."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache

from sqlalchemy import (
    ClauseElement,
    Connection,
    FromClause,
    Update,
    bindparam,
    case,
    update,
)

from app.db.engine.bulk import Bulk
from app.db.tables.tasks import IS_FINAL, tasks
from app.rules.task import RESUBMITTABLE, Failure, MoneySpent, Status, sources


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why a task failed, and whether it cost money."""

    failure: Failure
    money_spent: MoneySpent
    failure_detail: str


def move(
    connection: Connection,
    task_id: str,
    to: Status,
    now: datetime,
    *,
    attempt_id: str | None = None,
    reason: FailureReason | None = None,
) -> bool:
    """Move one task to `to` if its current state allows it. Return False if not moved.

    `attempt_id`: the attempt that becomes the current one. `reason`: of a task that fails.
    """
    changes = {"status": to, f"{to}_at": now} | (asdict(reason) if reason else {})
    if attempt_id is not None:
        changes["attempt_id"] = attempt_id
    parameters = {_NEW + name: value for name, value in changes.items()}
    return connection.execute(_update_status(to, tuple(changes)), {"task_id": task_id, **parameters}).rowcount == 1


_NEW = "new_"  # prefix of parameter names, because SQLAlchemy reserves the plain column names in an UPDATE


@cache
def _update_status(to: Status, names: tuple[str, ...]) -> Update:
    statement = update(tasks).where(tasks.c.id == bindparam("task_id"), tasks.c.status.in_(sources(to)))
    return statement.values({name: bindparam(_NEW + name, type_=tasks.c[name].type) for name in names})


def reopen(connection: Connection, task_id: str, now: datetime) -> bool:
    """Queue an ended task again. Return False if its state does not allow `resubmit`.

    A deadline that has passed is removed, because it applied to the earlier attempts.
    """
    ended = ("failure", "failure_detail", "money_spent", "sample_url", "sample_expires_at", "cancel_requested_at")
    reached = ("submitting_at", "submitted_at", "ready_at", "failed_at")
    cleared = dict.fromkeys((*ended, *reached))
    deadline = case((tasks.c.deadline_at > now, tasks.c.deadline_at), else_=None)
    reopened = connection.execute(
        update(tasks)
        .where(tasks.c.id == task_id, tasks.c.status.in_(RESUBMITTABLE))
        .values({**cleared, "status": Status.QUEUED, "tries": 0, "dispatch_after_at": now, "deadline_at": deadline})
    )
    return reopened.rowcount == 1


def set_estimated_cost(connection: Connection, task_id: str, estimated_cost: float) -> None:
    """Write what a task counts with while its cost is unknown."""
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(estimated_cost=estimated_cost))


def assign(connection: Connection, accounts: Sequence[tuple[str, str, str]]) -> None:
    """Give queued tasks to other accounts. Each is a task id, an account id and the account's provider."""
    _ASSIGN.run(connection, accounts)


def _assign(relation: FromClause, _dialect: str) -> ClauseElement:
    values = {name: relation.c[name] for name in ("account_id", "provider")}
    return update(tasks).where(tasks.c.id == relation.c.id).values(values)


_ASSIGN = Bulk({name: tasks.c[name].type for name in ("id", "account_id", "provider")}, _assign)


def request_cancel(connection: Connection, task_id: str, now: datetime) -> None:
    """Record that cancellation of a task was requested when it could no longer be cancelled. Ignores final tasks."""
    connection.execute(
        update(tasks)
        .where(tasks.c.id == task_id, ~IS_FINAL, tasks.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now)
    )


def count_try(connection: Connection, task_id: str) -> None:
    """Count one more of the tries after which a task fails."""
    connection.execute(update(tasks).where(tasks.c.id == task_id, ~IS_FINAL).values(tries=tasks.c.tries + 1))
