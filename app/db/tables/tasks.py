"""The table `tasks`: one row for each task, and the statements that change one task's state."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
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
    String,
    Table,
    Text,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
)

from app.db.engine.columns import Instant, Json, by_key, metadata
from app.db.tables import applications, task_tags
from app.rules.request import TaskRequest
from app.rules.task import Failure, MoneySpent, Status

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("key_id", String(48), nullable=False),  # the key that posted it
    Column("application_id", String(48)),  # NULL in rows of earlier versions, see `applications.of`
    Column("provider", String(32), nullable=False),
    Column("account_id", String(48), nullable=False),  # its current account; admission may choose another
    Column("region", String(16)),  # the only region of accounts that it may run in; NULL: any
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
    # What the task counts with while its cost is unknown: a price hint, or what a person stated.
    Column("estimated_cost", Float),
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
    Column("end_user", String(256), key="user"),  # as the client named it; `user` is a function of PostgreSQL
    Column("metadata", Json),  # pairs of texts of the client; null without any
    Column("inputs_removed_at", Instant),  # when the retention of its input images ended
)
Index("ix_tasks_status_id", tasks.c.status, tasks.c.id)
Index("ix_tasks_model_status_id", tasks.c.model, tasks.c.status, tasks.c.id)
APPLICATION = applications.of(tasks)
Index("ix_tasks_application_status_id", APPLICATION, tasks.c.status, tasks.c.id)
Index("ix_tasks_application_model_status_id", APPLICATION, tasks.c.model, tasks.c.status, tasks.c.id)


def is_queued(table: FromClause) -> ColumnElement[bool]:
    """The condition of the partial indexes, for `tasks` or an alias of it.

    The state is a literal, because the planner does not match a bound parameter with such a condition.
    """
    return table.c.status == literal_column(f"'{Status.QUEUED}'")


IS_QUEUED = is_queued(tasks)
# Of the versions before the queue of all accounts, which may still run; a later version drops these two.
Index(
    "ix_tasks_queued",
    *(tasks.c.account_id, tasks.c.priority, tasks.c.id, tasks.c.status),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)
Index(
    "ix_tasks_turns",
    *(tasks.c.account_id, tasks.c.key_id, tasks.c.priority.desc(), tasks.c.id),
    *(tasks.c.status, tasks.c.model, tasks.c.dispatch_after_at, tasks.c.created_at),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)
# The status comes first in this and the others, because SQLite would otherwise prefer `ix_tasks_status_id`.
Index(
    "ix_tasks_places",
    *(tasks.c.status, tasks.c.priority, tasks.c.id),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)
# The order of positions. The columns after the id are for the version before, which finds the next tasks here.
# On PostgreSQL this index and the next do not begin with `status`; migration 0027 says why.
Index(
    "ix_tasks_next",
    *(tasks.c.status, APPLICATION, tasks.c.priority.desc(), tasks.c.id),
    *(tasks.c.model, tasks.c.region, tasks.c.dispatch_after_at, tasks.c.created_at),
    *(tasks.c.application_id, tasks.c.key_id),  # PostgreSQL reads the index alone only if it has these too
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)

# The columns after the id let the query skip tasks that may not start yet without reading their rows.
Index(
    "ix_tasks_next_of_model",
    *(tasks.c.status, APPLICATION, tasks.c.model, tasks.c.priority.desc(), tasks.c.id),
    *(tasks.c.region, tasks.c.dispatch_after_at, tasks.c.created_at, tasks.c.application_id, tasks.c.key_id),
    sqlite_where=IS_QUEUED,
    postgresql_where=IS_QUEUED,
)


def is_queued_for_model(table: FromClause) -> ColumnElement[bool]:
    """The condition of `ix_tasks_by_queue` on PostgreSQL: `is_queued`, and what each task meets.

    Without that, PostgreSQL would read this index from its start for statements that need another one of a short queue.
    """
    return and_(is_queued(table), table.c.model >= literal_column("''"))


# The queue of each account and model, in the order in which its tasks joined it. On PostgreSQL without `status` too.
Index(
    "ix_tasks_by_queue",
    *(tasks.c.status, tasks.c.account_id, tasks.c.model, tasks.c.dispatch_after_at),
    sqlite_where=IS_QUEUED,
    postgresql_where=is_queued_for_model(tasks),
)
_HAS_DEADLINE = and_(IS_QUEUED, tasks.c.deadline_at.is_not(None))
Index(
    "ix_tasks_deadline",
    *(tasks.c.status, tasks.c.deadline_at, tasks.c.id),
    sqlite_where=_HAS_DEADLINE,
    postgresql_where=_HAS_DEADLINE,
)

# Literals, because the bulk statements that contain this have no parameters but their rows.
IS_FINAL = or_(*(tasks.c.status == literal_column(f"'{status}'") for status in Status if status.final))
# When a final task ended. A task that is queued again has none of these times.
ENDED_AT: ColumnElement[datetime] = func.coalesce(tasks.c.stored_at, tasks.c.failed_at, tasks.c.cancelled_at)
Index(
    "ix_tasks_ended",
    *(APPLICATION, ENDED_AT, tasks.c.id),
    sqlite_where=IS_FINAL,
    postgresql_where=IS_FINAL,
)


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    key_id: str
    application_id: str
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
    estimated_cost: float | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_form: str | None = None
    webhook_events: Sequence[str] | None = None
    webhook_origin: str | None = None
    user: str | None = field(default=None, repr=False)
    metadata: Mapping[str, str] | None = field(default=None, repr=False)
    region: str | None = None
    inputs_removed_at: datetime | None = None

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
    application_id: str
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
    estimated_cost: float | None = None
    webhook: Subscription | None = None
    user: str | None = field(default=None, repr=False)
    metadata: Mapping[str, str] | None = field(default=None, repr=False)
    region: str | None = None


_INSERT = tasks.insert()
_PLAIN_COLUMNS = tuple(column.name for column in fields(NewTask) if column.name not in {"request", "webhook"})
_GET = select(tasks).where(tasks.c.id == bindparam("task_id"))
_EXISTS = select(tasks.c.id).where(tasks.c.id == bindparam("task_id"))
_POSITION = select(tasks.c.status, tasks.c.attempt_id).where(tasks.c.id == bindparam("task_id"))
_CANCEL_REQUESTED_AT = select(tasks.c.cancel_requested_at).where(
    tasks.c.id == bindparam("task_id"), tasks.c.status == Status.QUEUED
)
_AMONG = tasks.c.id.in_(bindparam("task_ids", expanding=True))
_WITH_WEBHOOK = select(tasks).where(_AMONG, tasks.c.webhook_url.is_not(None))
_LOCK = select(tasks.c.id).where(_AMONG).order_by(tasks.c.id).with_for_update()


def insert(connection: Connection, task: NewTask) -> None:
    plain = {name: getattr(task, name) for name in _PLAIN_COLUMNS}
    webhook = {f"webhook_{name}": value for name, value in asdict(task.webhook).items()} if task.webhook else {}
    row = {**plain, "request": task.request.as_json(), "status": Status.QUEUED, "tries": 0, **webhook}
    connection.execute(_INSERT, row)
    task_tags.put(connection, task.application_id, task.id, task_tags.of_task(task.user, task.metadata))


def get(connection: Connection, task_id: str) -> Task | None:
    row = connection.execute(_GET, {"task_id": task_id}).one_or_none()
    return None if row is None else task_of(row)


def exists(connection: Connection, task_id: str) -> bool:
    return connection.execute(_EXISTS, {"task_id": task_id}).one_or_none() is not None


def is_at(connection: Connection, task_id: str, status: Status, attempt_id: str) -> bool:
    """Whether a task is in this state, and this is its latest attempt."""
    row = connection.execute(_POSITION, {"task_id": task_id}).one_or_none()
    return row is not None and tuple(row) == (status, attempt_id)


def is_queued_to_be_cancelled(connection: Connection, task_id: str) -> bool:
    """Whether a task has returned to the queue although its cancellation was requested."""
    requested_at = connection.execute(_CANCEL_REQUESTED_AT, {"task_id": task_id}).scalar_one_or_none()
    return requested_at is not None


def get_owned(connection: Connection, task_id: str, owner: str | None) -> Task | None:
    """Return a task if it belongs to the application `owner`, or to any if that is None."""
    task = get(connection, task_id)
    return task if task is not None and owner in {None, task.application_id} else None


def with_webhook(connection: Connection, task_ids: Collection[str]) -> dict[str, Task]:
    """Return those of these tasks that have a webhook, by id."""
    if not task_ids:
        return {}
    return {row.id: task_of(row) for row in connection.execute(_WITH_WEBHOOK, {"task_ids": list(task_ids)})}


def ids_in(connection: Connection, status: Status) -> set[str]:
    """Return the ids of all tasks in this state."""
    return set(connection.execute(select(tasks.c.id).where(tasks.c.status == status)).scalars())


def count_open(
    connection: Connection, application_id: str | None = None, *, queued: int | None = None
) -> dict[Status, int]:
    """Count the tasks in each state that is not final, of an application or of all for None. Reads only an index.

    `queued`: the number of queued tasks, if the caller has counted them: there may be many.
    """
    open_states = [status for status in Status if not status.final]
    counted = [status for status in open_states if queued is None or status is not Status.QUEUED]
    owned = [] if application_id is None else [APPLICATION.in_([application_id])]
    query = select(tasks.c.status, func.count()).where(tasks.c.status.in_(counted), *owned).group_by(tasks.c.status)
    counts = {Status(status): count for status, count in connection.execute(query)}
    if queued is not None:
        counts[Status.QUEUED] = queued
    return {status: counts.get(status, 0) for status in open_states}


def lock(connection: Connection, task_ids: Collection[str]) -> None:
    """Lock these tasks until the transaction ends, in the order of their ids, so concurrent callers do not deadlock."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer, and no locks of rows
        connection.execute(_LOCK, {"task_ids": list(task_ids)})


def task_of(row: Row[Any]) -> Task:
    values = by_key(tasks, row)
    values["application_id"] = values["application_id"] or applications.id_of_key(values["key_id"])
    values["request"] = TaskRequest.of_json(values["request"])
    values["status"] = Status(values["status"])
    values["failure"] = values["failure"] and Failure(values["failure"])
    values["money_spent"] = values["money_spent"] and MoneySpent(values["money_spent"])
    values["seed"] = values["seed"] and int(values["seed"])
    return Task(**values)
