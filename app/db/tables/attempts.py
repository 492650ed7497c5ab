"""The table `submissions`: one row for each attempt to submit a task, written before the request is sent."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    ClauseElement,
    Column,
    Connection,
    Float,
    FromClause,
    Index,
    Integer,
    String,
    Table,
    Text,
    bindparam,
    func,
    select,
    update,
)

from app.db.engine.bulk import Bulk, DeferredWrites
from app.db.engine.columns import Instant, by_key, metadata
from app.db.tables.tasks import tasks
from app.rules.task import Outcome, Status

attempts = Table(
    "submissions",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("task_id", String(48), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("provider", String(32), nullable=False),
    # The key of the keyring that its callback token and secret are derived from. Neither of them is stored.
    Column("ring_key", String(16), nullable=False, key="signing_key_id"),
    Column("outcome", String(16), nullable=False),
    # Whether the provider was given a callback address.
    Column("called_back", Boolean, nullable=False, key="callback_requested"),
    Column("provider_id", Text),
    Column("polling_url", Text),
    Column("cost", Float),
    Column("detail", Text),
    Column("planned_at", Instant, nullable=False),
    Column("asked_at", Instant, key="sent_at"),
    Column("answered_at", Instant),
    # The account that it was sent to; NULL while it is planned, and in rows of earlier versions: that of the task.
    Column("account_id", String(48)),
    # The call of `dispatch` that recorded the attempt as sent: a random id, which only that call knows.
    Column("sender", String(48)),
)
_HAS_PROVIDER_ID = attempts.c.provider_id.is_not(None)
Index(
    "ix_submissions_provider_id",
    attempts.c.provider_id,
    sqlite_where=_HAS_PROVIDER_ID,
    postgresql_where=_HAS_PROVIDER_ID,
)


@dataclass(frozen=True, slots=True)
class Attempt:
    id: str
    task_id: str
    number: int
    provider: str
    signing_key_id: str
    outcome: Outcome
    callback_requested: bool
    provider_id: str | None
    polling_url: str | None
    cost: float | None
    detail: str | None
    planned_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None
    sender: str | None
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class NewAttempt:
    """An attempt to be inserted as `planned`: nothing has been sent."""

    id: str
    task_id: str
    number: int
    provider: str
    signing_key_id: str
    planned_at: datetime


_PLAN = attempts.insert()
_GET = select(attempts).where(attempts.c.id == bindparam("attempt_id"))
_OF_TASK = select(attempts).where(attempts.c.task_id == bindparam("task_id")).order_by(attempts.c.number)
_MARK_SENT = (
    update(attempts)
    .where(attempts.c.id == bindparam("attempt_id"), attempts.c.outcome == Outcome.PLANNED)
    .values(
        outcome=Outcome.UNKNOWN,
        sent_at=bindparam("now"),
        callback_requested=bindparam("has_address"),
        provider=func.coalesce(bindparam("sent_to"), attempts.c.provider),
        account_id=bindparam("account"),
        sender=bindparam("by"),
    )
)
_MARK_UNSENT = (
    update(attempts)
    .where(
        attempts.c.id == bindparam("attempt_id"),
        attempts.c.sender == bindparam("by"),
        attempts.c.outcome == Outcome.UNKNOWN,
        attempts.c.answered_at.is_(None),
    )
    .values(outcome=Outcome.PLANNED, sent_at=None, callback_requested=False, account_id=None, sender=None)
)


def plan(connection: Connection, attempt: NewAttempt) -> None:
    connection.execute(_PLAN, {"outcome": Outcome.PLANNED, "callback_requested": False, **asdict(attempt)})


def get(connection: Connection, attempt_id: str) -> Attempt | None:
    row = connection.execute(_GET, {"attempt_id": attempt_id}).one_or_none()
    return None if row is None else _attempt_of(by_key(attempts, row))


def of_task(connection: Connection, task_id: str) -> list[Attempt]:
    """Return all attempts of a task, first attempt first."""
    return [_attempt_of(by_key(attempts, row)) for row in connection.execute(_OF_TASK, {"task_id": task_id})]


def mark_sent(
    connection: Connection,
    attempt_id: str,
    now: datetime,
    *,
    callback_requested: bool,
    provider: str | None = None,
    account_id: str | None = None,
    sender: str | None = None,
) -> bool:
    """Record that the request may reach the provider from now on. Return False unless the attempt is still planned.

    `provider`: of the account; None: as planned. `account_id`: the account that it is sent to; None: that of the task.
    `sender`: a random id that allows its owner to take this back (`mark_unsent`).
    """
    parameters = {"attempt_id": attempt_id, "now": now, "has_address": callback_requested, "by": sender}
    parameters |= {"sent_to": provider, "account": account_id}
    return connection.execute(_MARK_SENT, parameters).rowcount == 1


def mark_unsent(connection: Connection, attempt_id: str, sender: str) -> bool:
    """Make an attempt planned again. Return False unless this sender recorded it as sent and no answer is known.

    Only for a sender that has not sent anything and never will.
    """
    return connection.execute(_MARK_UNSENT, {"attempt_id": attempt_id, "by": sender}).rowcount == 1


def task_ids(connection: Connection, attempt_ids: Collection[str]) -> dict[str, str]:
    """Return the task ids of these attempts, by attempt id. Unknown ids are left out."""
    query = select(attempts.c.id, attempts.c.task_id).where(attempts.c.id.in_(attempt_ids))
    return {row.id: row.task_id for row in connection.execute(query)}


def traceparent(connection: Connection, attempt_id: str) -> str | None:
    """Return the W3C `traceparent` of an attempt's task."""
    query = (
        select(tasks.c.traceparent).join(attempts, attempts.c.task_id == tasks.c.id).where(attempts.c.id == attempt_id)
    )
    stored: str | None = connection.execute(query).scalar_one_or_none()
    return stored


def count_in_flight_by_signing_key(connection: Connection) -> dict[str, int]:
    """Count the tasks that may still receive a callback, by the signing key id of their current attempt."""
    query = (
        select(attempts.c.signing_key_id, func.count().label("tasks"))
        .join(tasks, tasks.c.attempt_id == attempts.c.id)
        .where(tasks.c.status.in_((Status.SUBMITTING, Status.SUBMITTED)))
        .group_by(attempts.c.signing_key_id)
    )
    return {key: count for key, count in connection.execute(query)}  # noqa: C416 - rows are no pairs to the type checker


def is_known(connection: Connection, provider_id: str) -> bool:
    """Return whether an attempt with this provider id is stored."""
    query = select(attempts.c.id).where(attempts.c.provider_id == provider_id).limit(1)
    return connection.execute(query).one_or_none() is not None


@dataclass(frozen=True, slots=True)
class AttemptChange:
    """What evidence adds to one attempt. None leaves a column as it is."""

    outcome: Outcome | None = None
    provider_id: str | None = None
    polling_url: str | None = None
    cost: float | None = None
    detail: str | None = None
    answered_at: datetime | None = None

    def followed_by(self, later: "AttemptChange") -> "AttemptChange":
        """Return one change that does what this one and then `later` would do."""
        return replace(self, **{name: value for name in _COLUMNS if (value := getattr(later, name)) is not None})


_COLUMNS = tuple(field.name for field in fields(AttemptChange))


def apply_changes(writes: DeferredWrites, changes: Mapping[str, AttemptChange]) -> None:
    """Write changes by attempt id, at least one."""
    rows = [(attempt_id, *(getattr(change, name) for name in _COLUMNS)) for attempt_id, change in changes.items()]
    writes.add(_APPLY, rows)


def _apply(relation: FromClause, _dialect: str) -> ClauseElement:
    values = {name: func.coalesce(relation.c[name], attempts.c[name]) for name in _COLUMNS}
    return update(attempts).where(attempts.c.id == relation.c.id).values(values)


_APPLY = Bulk({name: attempts.c[name].type for name in ("id", *_COLUMNS)}, _apply)


def _attempt_of(row: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**row, "outcome": Outcome(row["outcome"])})
