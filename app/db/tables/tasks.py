"""The table `tasks`: one row for each task, and the statements that change one task's state."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
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
from app.rules.request import TaskRequest
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
    # The request, with references to its images instead of their bytes.
    Column("request", Json, nullable=False),
    Column("warnings", Json, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("deadline_at", Instant),
    Column("dispatch_after_at", Instant, nullable=False),
    # The current attempt. Not a foreign key, because each row refers to the other.
    Column("submission_id", String(48), key="attempt_id", nullable=False),
    Column("tries", Integer, nullable=False),
    Column("cost", Float),
    Column("seed", Text),  # an integer of any size, because the provider states no bounds
    Column("sample_url", Text),
    Column("sample_expires_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("submitting_at", Instant),
    Column("submitted_at", Instant),
    Column("ready_at", Instant),
    Column("stored_at", Instant),
    Column("failed_at", Instant),
    Column("cancelled_at", Instant),
    Column("unwanted_at", Instant, key="cancel_requested_at"),  # too late to cancel; the result is still stored
    Column("traceparent", String(64)),  # W3C trace context of the request that created the task
    Column("notify_url", Text, key="webhook_url"),
    Column("notify_secret", Text, key="webhook_secret"),  # sealed
    Column("notify_form", String(16), key="webhook_form"),
    Column("notify_events", Json, key="webhook_events"),
    # The origin that the client used to reach this service, for links if no public URL is configured.
    Column("notify_origin", Text, key="webhook_origin"),
)
Index("ix_tasks_status_id", tasks.c.status, tasks.c.id)
Index("ix_tasks_model_status_id", tasks.c.model, tasks.c.status, tasks.c.id)


def is_queued(table: FromClause) -> ColumnElement[bool]:
    """The condition of the partial indexes, for `tasks` or an alias of it.

    The state is a literal, because the planner does not match a bound parameter with such a condition.
    """
    return table.c.status == literal_column(f"'{Status.QUEUED}'")


IS_QUEUED = is_queued(tasks)
Index(
    "ix_tasks_queued",
    *(tasks.c.account_id, tasks.c.priority, tasks.c.id, tasks.c.status),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)
# The columns after the id let the query skip tasks that may not start yet without reading their rows.
Index(
    "ix_tasks_turns",
    *(tasks.c.account_id, tasks.c.key_id, tasks.c.priority.desc(), tasks.c.id),
    *(tasks.c.status, tasks.c.model, tasks.c.dispatch_after_at, tasks.c.created_at),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)

# Literals, because the bulk statements that contain this have no parameters but their rows.
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
    request: TaskRequest
    warnings: Sequence[str]
    priority: int
    deadline_at: datetime | None
    dispatch_after_at: datetime
    attempt_id: str
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

    @property
    def effective_seed(self) -> int | None:
        """The seed of the image: as the provider reported it, else as requested."""
        return self.request.seed if self.seed is None else self.seed


@dataclass(frozen=True, slots=True)
class Subscription:
    """The webhook of a task."""

    url: str
    secret: str | None = field(repr=False)  # sealed
    form: str
    events: Sequence[str]
    origin: str | None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be inserted as `queued`."""

    id: str
    key_id: str
    provider: str
    account_id: str
    model: str
    request: TaskRequest
    warnings: Sequence[str]
    priority: int
    deadline_at: datetime | None
    dispatch_after_at: datetime
    attempt_id: str
    created_at: datetime
    traceparent: str | None = None
    webhook: Subscription | None = None


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why a task failed, and whether it cost money."""

    failure: Failure
    money_spent: MoneySpent
    failure_detail: str


_INSERT = tasks.insert()
_PLAIN_COLUMNS = tuple(column.name for column in fields(NewTask) if column.name not in {"request", "webhook"})
_GET = select(tasks).where(tasks.c.id == bindparam("task_id"))


def insert(connection: Connection, task: NewTask) -> None:
    plain = {name: getattr(task, name) for name in _PLAIN_COLUMNS}
    webhook = {f"webhook_{name}": value for name, value in asdict(task.webhook).items()} if task.webhook else {}
    row = {**plain, "request": task.request.as_json(), "status": Status.QUEUED, "tries": 0, **webhook}
    connection.execute(_INSERT, row)


def get(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute(_GET, {"task_id": task_id}).one_or_none()
    return None if row is None else task_of(row)


def with_webhook(connection: Connection, task_ids: Collection[str]) -> dict[str, Task]:
    """Return those of these tasks that have a webhook, by id."""
    if not task_ids:
        return {}
    query = select(tasks).where(tasks.c.id.in_(task_ids), tasks.c.webhook_url.is_not(None))
    return {row.id: task_of(row) for row in connection.execute(query)}


def newest(
    connection: Connection,
    *,
    limit: int,
    before: str | None = None,
    since: str | None = None,
    statuses: Collection[Status] = (),
    model: str | None = None,
) -> list[Task]:
    """Return tasks, newest first: with ids lower than `before`, and not lower than `since`.

    Ids sort by the time of creation. Without `statuses`, tasks in all states are returned.
    """
    conditions = [tasks.c.id < before] if before is not None else []
    if since is not None:
        conditions.append(tasks.c.id >= since)
    if model is not None:
        conditions.append(tasks.c.model == model)
        statuses = statuses or tuple(Status)
    if len(statuses) == 1:
        conditions.append(tasks.c.status == next(iter(statuses)))
    elif statuses:
        # The indexes have the tasks in order within each state, so each state is read by itself.
        pages = (_newest_ids(limit, *conditions, tasks.c.status == status) for status in sorted(set(statuses)))
        merged = union_all(*pages).subquery()
        conditions = [tasks.c.id.in_(select(merged.c.id).order_by(merged.c.id.desc()).limit(limit))]
    query = select(tasks).where(*conditions).order_by(tasks.c.id.desc()).limit(limit)
    return [task_of(row) for row in connection.execute(query)]


def _newest_ids(limit: int, *conditions: ColumnElement[bool]) -> Select[Any]:
    newest_first = select(tasks.c.id).where(*conditions).order_by(tasks.c.id.desc())
    return select(newest_first.limit(limit).subquery())


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


def ids_in(connection: Connection, status: Status) -> set[str]:
    """Return the ids of all tasks in this state."""
    return set(connection.execute(select(tasks.c.id).where(tasks.c.status == status)).scalars())


def count_open(connection: Connection) -> dict[Status, int]:
    """Count the tasks in each state that is not final. Reads only the index, so finished tasks cost nothing."""
    open_states = [status for status in Status if not status.final]
    query = select(tasks.c.status, func.count()).where(tasks.c.status.in_(open_states)).group_by(tasks.c.status)
    counts = {Status(status): count for status, count in connection.execute(query)}
    return {status: counts.get(status, 0) for status in open_states}


def latest_durations(connection: Connection, model: str, limit: int) -> list[timedelta]:
    """Return the provider's processing times of a model's latest stored tasks, newest first, `limit` at most."""
    rows = connection.execute(_LATEST_DURATIONS, {"model": model, "limit": limit})
    return [row.ready_at - row.submitted_at for row in rows]


_LATEST_DURATIONS = (
    select(tasks.c.submitted_at, tasks.c.ready_at)
    .where(tasks.c.model == bindparam("model"), tasks.c.status == Status.STORED, tasks.c.submitted_at.is_not(None))
    .order_by(tasks.c.id.desc())
    .limit(bindparam("limit"))
)


def lock(connection: Connection, task_ids: Collection[str]) -> None:
    """Lock these tasks until the transaction ends, in the order of their ids, so concurrent callers do not deadlock."""
    connection.execute(select(tasks.c.id).where(tasks.c.id.in_(task_ids)).order_by(tasks.c.id).with_for_update())


def task_of(row: Row[Any]) -> Task:
    values = by_key(tasks, row)
    values["request"] = TaskRequest.of_json(values["request"])
    values["status"] = Status(values["status"])
    values["failure"] = values["failure"] and Failure(values["failure"])
    values["money_spent"] = values["money_spent"] and MoneySpent(values["money_spent"])
    values["seed"] = values["seed"] and int(values["seed"])
    return Task(**values)
