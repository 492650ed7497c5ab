"""The table `tasks`: one row for each task, and every statement that moves one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    Text,
    Update,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from app.db.engine.columns import Instant, Json, by_key, metadata
from app.rules.task import RESUBMITTABLE, Failure, MoneySpent, Status, sources

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("key_id", String(48), nullable=False),
    Column("provider", String(32), nullable=False),
    Column("account_id", String(48), nullable=False),
    Column("model", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("failure", String(32)),
    Column("failure_detail", Text),
    Column("money_spent", String(8)),
    # What was asked, with references to the images instead of the images.
    Column("request", Json, nullable=False),
    Column("warnings", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("deadline_at", Instant),
    Column("dispatch_after_at", Instant, nullable=False),
    # The attempt that counts now; an id without a foreign key, because each row names the other.
    Column("submission_id", String(48), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("cost", Float),
    Column("seed", Text),  # an integer of any size: the provider states no bounds
    Column("sample_url", Text),
    Column("sample_expires_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("submitting_at", Instant),
    Column("submitted_at", Instant),
    Column("ready_at", Instant),
    Column("stored_at", Instant),
    Column("failed_at", Instant),
    Column("cancelled_at", Instant),
    Column("unwanted_at", Instant, key="cancel_requested_at"),  # cancelled too late: the result is kept all the same
    Column("traceparent", String(64)),  # of the request that submitted it, as W3C writes it
    Column("notify_url", Text, key="webhook_url"),
    Column("notify_secret", Text, key="webhook_secret"),  # sealed
    Column("notify_form", String(16), key="webhook_form"),
    Column("notify_events", Json, key="webhook_events"),
    Column(
        "notify_origin", Text, key="webhook_origin"
    ),  # where the submitter reached us, for links where no public address is set
)
Index("ix_tasks_status_id", tasks.c.status, tasks.c.id)
Index("ix_tasks_model_status_id", tasks.c.model, tasks.c.status, tasks.c.id)


def is_queued(table: FromClause) -> ColumnElement[bool]:
    """Of the tasks or an alias of them. Written out: a partial index is not found by a parameter."""
    return table.c.status == literal_column(f"'{Status.QUEUED}'")


IS_QUEUED = is_queued(tasks)
Index(
    "ix_tasks_queued",
    *(tasks.c.account_id, tasks.c.priority, tasks.c.id, tasks.c.status),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)
# What follows the id is there to pass over those that may not go yet without reading their rows.
Index(
    "ix_tasks_turns",
    *(tasks.c.account_id, tasks.c.key_id, tasks.c.priority.desc(), tasks.c.id),
    *(tasks.c.status, tasks.c.model, tasks.c.dispatch_after_at, tasks.c.created_at),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)

# Written out: this is a part of statements that are compiled once, for any rows.
IS_FINAL = or_(*(tasks.c.status == literal_column(f"'{status}'") for status in Status if status.final))


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    key_id: str
    provider: str
    account_id: str
    model: str
    status: Status
    failure: Failure | None
    failure_detail: str | None
    money_spent: MoneySpent | None
    request: Mapping[str, Any]
    warnings: Sequence[str]
    priority: int
    deadline_at: datetime | None
    dispatch_after_at: datetime
    submission_id: str
    tries: int
    cost: float | None
    seed: int | None
    sample_url: str | None
    sample_expires_at: datetime | None
    created_at: datetime
    submitting_at: datetime | None = None
    submitted_at: datetime | None = None
    ready_at: datetime | None = None
    stored_at: datetime | None = None
    failed_at: datetime | None = None
    cancelled_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    traceparent: str | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_form: str | None = None
    webhook_events: Sequence[str] | None = None
    webhook_origin: str | None = None


_INSERT = tasks.insert()
_GET = select(tasks).where(tasks.c.id == bindparam("task_id"))


def insert(connection: Connection, **values: Any) -> None:
    connection.execute(_INSERT, {"tries": 0, **values})


def get(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute(_GET, {"task_id": task_id}).one_or_none()
    return None if row is None else task_of(row)


def told(connection: Connection, task_ids: Collection[str]) -> dict[str, Task]:
    """Those of these tasks whose submitter wants to be told, by id."""
    if not task_ids:
        return {}
    query = select(tasks).where(tasks.c.id.in_(task_ids), tasks.c.webhook_url.is_not(None))
    return {row.id: task_of(row) for row in connection.execute(query)}


def newest(
    connection: Connection,
    *,
    limit: int,
    before: str | None = None,
    status: Status | None = None,
    model: str | None = None,
) -> list[Task]:
    """Tasks, newest first, those created before the task `before` alone."""
    wanted = [tasks.c.id < before] if before is not None else []
    if status is not None:
        wanted.append(tasks.c.status == status)
    if model is not None:
        wanted.append(tasks.c.model == model)
    if model is not None and status is None:
        # The index has the tasks of a model in order within each state: no state's are looked through for another's.
        each = union_all(*(_ids(limit, *wanted, tasks.c.status == one) for one in Status)).subquery()
        wanted = [tasks.c.id.in_(select(each.c.id).order_by(each.c.id.desc()).limit(limit))]
    query = select(tasks).where(*wanted).order_by(tasks.c.id.desc()).limit(limit)
    return [task_of(row) for row in connection.execute(query)]


def _ids(limit: int, *wanted: ColumnElement[bool]) -> Select[Any]:
    newest_first = select(tasks.c.id).where(*wanted).order_by(tasks.c.id.desc())
    return select(newest_first.limit(limit).subquery())


def move(connection: Connection, task_id: str, to: Status, now: datetime, **values: Any) -> bool:
    """Move one task from any state that may come before `to`; False when it is in none of them."""
    changed = {"status": to, f"{to}_at": now, **values}
    given = {_NEW + name: value for name, value in changed.items()}
    return connection.execute(_moving(to, tuple(changed)), {"task_id": task_id, **given}).rowcount == 1


_NEW = "new_"  # before a column's name: a parameter that is named as the column would be taken for one of SQLAlchemy's


@cache
def _moving(to: Status, names: tuple[str, ...]) -> Update:
    moving = update(tasks).where(tasks.c.id == bindparam("task_id"), tasks.c.status.in_(sources(to)))
    return moving.values({name: bindparam(_NEW + name, type_=tasks.c[name].type) for name in names})


def reopen(connection: Connection, task_id: str, now: datetime) -> bool:
    """Queue a task again that had ended so that a person may ask for it; False for any other.

    A deadline that has passed was for the attempts before.
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


def request_cancel(connection: Connection, task_id: str, now: datetime) -> None:
    """Note that nobody wants the result any more of a task that the provider has, or may have."""
    connection.execute(
        update(tasks)
        .where(tasks.c.id == task_id, ~IS_FINAL, tasks.c.cancel_requested_at.is_(None))
        .values(cancel_requested_at=now)
    )


def ids_in(connection: Connection, status: Status) -> set[str]:
    return set(connection.execute(select(tasks.c.id).where(tasks.c.status == status)).scalars())


def count_open(connection: Connection) -> dict[Status, int]:
    """How many tasks are in each state that is not final; read from the index, however many have ended."""
    open_states = [status for status in Status if not status.final]
    query = select(tasks.c.status, func.count()).where(tasks.c.status.in_(open_states)).group_by(tasks.c.status)
    found = {Status(status): count for status, count in connection.execute(query)}
    return {status: found.get(status, 0) for status in open_states}


def lately(connection: Connection, model: str, limit: int) -> list[timedelta]:
    """How long the provider took for the latest tasks of a model whose images were stored."""
    return [row.ready_at - row.submitted_at for row in connection.execute(_LATELY, {"of": model, "most": limit})]


_LATELY = (
    select(tasks.c.submitted_at, tasks.c.ready_at)
    .where(tasks.c.model == bindparam("of"), tasks.c.status == Status.STORED, tasks.c.submitted_at.is_not(None))
    .order_by(tasks.c.id.desc())
    .limit(bindparam("most"))
)


def lock(connection: Connection, task_ids: Collection[str]) -> None:
    """Let nobody else move these tasks until the transaction ends; in one order, so that nobody deadlocks."""
    connection.execute(select(tasks.c.id).where(tasks.c.id.in_(task_ids)).order_by(tasks.c.id).with_for_update())


def task_of(row: Row[Any]) -> Task:
    values = by_key(tasks, row)
    values["status"] = Status(values["status"])
    values["failure"] = values["failure"] and Failure(values["failure"])
    values["money_spent"] = values["money_spent"] and MoneySpent(values["money_spent"])
    values["seed"] = values["seed"] and int(values["seed"])
    return Task(**values)
