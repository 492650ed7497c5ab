"""The table `submissions`: one row for each attempt to submit a task, recorded before the attempt is made."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, NamedTuple

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
    exists,
    func,
    select,
    update,
)

from app.db.engine.bulk import Bulk, BulkRead
from app.db.engine.columns import Instant, by_key, instant_of, metadata
from app.db.tables.provider_accounts import slots
from app.db.tables.tasks import tasks
from app.rules.task import AttemptState, Outcome, Status

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("task_id", String(48), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("provider", String(32), nullable=False),
    # Which key of the ring its token and secret are derived from; they themselves are nowhere.
    Column("ring_key", String(16), nullable=False, key="signing_key_id"),
    Column("outcome", String(16), nullable=False),
    Column(
        "called_back", Boolean, nullable=False, key="callback_requested"
    ),  # whether the provider was given an address to call
    Column("provider_id", Text),
    Column("polling_url", Text),
    Column("cost", Float),
    Column("detail", Text),
    Column("planned_at", Instant, nullable=False),
    Column("asked_at", Instant, key="sent_at"),
    Column("answered_at", Instant),
)
_IS_NAMED = submissions.c.provider_id.is_not(None)
Index("ix_submissions_provider_id", submissions.c.provider_id, sqlite_where=_IS_NAMED, postgresql_where=_IS_NAMED)


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


class AttemptContext(NamedTuple):
    """An attempt and its task as they stand: what a decision about either needs."""

    submission_id: str
    task_id: str
    account_id: str
    key_id: str
    is_told: bool  # whether its submitter wants to hear of the task
    has_slot: bool
    standing: AttemptState


_PLAN = submissions.insert()
_GET = select(submissions).where(submissions.c.id == bindparam("submission_id"))
_OF_TASK = select(submissions).where(submissions.c.task_id == bindparam("of")).order_by(submissions.c.number)
_MARK_ASKED = (
    update(submissions)
    .where(submissions.c.id == bindparam("submission_id"), submissions.c.outcome == Outcome.PLANNED)
    .values(outcome=Outcome.UNKNOWN, sent_at=bindparam("now"), callback_requested=bindparam("has_address"))
)


def plan(connection: Connection, **values: Any) -> None:
    connection.execute(_PLAN, {"outcome": Outcome.PLANNED, "callback_requested": False, **values})


def get(connection: Connection, submission_id: str) -> Attempt | None:
    row = connection.execute(_GET, {"submission_id": submission_id}).one_or_none()
    return None if row is None else _submission_of(by_key(submissions, row))


def of_task(connection: Connection, task_id: str) -> list[Attempt]:
    """Every attempt of a task, the first one first."""
    return [_submission_of(by_key(submissions, row)) for row in connection.execute(_OF_TASK, {"of": task_id})]


def mark_sent(connection: Connection, submission_id: str, now: datetime, *, callback_requested: bool) -> bool:
    """Say that bytes may leave from now on; False when this attempt was asked before."""
    given = {"submission_id": submission_id, "now": now, "has_address": callback_requested}
    return connection.execute(_MARK_ASKED, given).rowcount == 1


def lock_attempts(connection: Connection, submission_ids: Iterable[str]) -> dict[str, AttemptContext]:
    """These attempts with their tasks, by submission id; what is not known is not in it.

    Nobody else changes them until the transaction ends: the tasks are locked in one order, so that nobody deadlocks.
    """
    rows = [(submission_id,) for submission_id in submission_ids]
    return {row[0]: _attempt_of(row) for row in _LOCK_ATTEMPTS.find(connection, rows)}


def _attempts(given: FromClause, _dialect: str) -> ClauseElement:
    return (
        select(
            submissions.c.id,
            submissions.c.task_id,
            submissions.c.outcome,
            submissions.c.provider_id,
            submissions.c.cost,
            tasks.c.account_id,
            tasks.c.key_id,
            tasks.c.webhook_url.is_not(None),
            tasks.c.status,
            tasks.c.sample_url,
            tasks.c.sample_expires_at,
            tasks.c.tries,
            tasks.c.submission_id == submissions.c.id,
            exists().where(slots.c.task_id == tasks.c.id),
        )
        .select_from(given)
        .join(submissions, submissions.c.id == given.c.id)
        .join(tasks, tasks.c.id == submissions.c.task_id)
        .order_by(tasks.c.id)
        .with_for_update(of=[tasks, submissions])
    )


_LOCK_ATTEMPTS = BulkRead({"id": submissions.c.id.type}, _attempts)


def task_ids(connection: Connection, submission_ids: Collection[str]) -> dict[str, str]:
    """The tasks of these attempts, by submission id; what is not known is not in it."""
    query = select(submissions.c.id, submissions.c.task_id).where(submissions.c.id.in_(submission_ids))
    return {row.id: row.task_id for row in connection.execute(query)}


def traceparent(connection: Connection, submission_id: str) -> str | None:
    """The trace of the task that an attempt belongs to."""
    query = (
        select(tasks.c.traceparent)
        .join(submissions, submissions.c.task_id == tasks.c.id)
        .where(submissions.c.id == submission_id)
    )
    found: str | None = connection.execute(query).scalar_one_or_none()
    return found


def under_way_by_signing_key(connection: Connection) -> dict[str, int]:
    """How many tasks the provider may still call back about, by the ring key that their attempt was planned with."""
    query = (
        select(submissions.c.signing_key_id, func.count().label("tasks"))
        .join(tasks, tasks.c.submission_id == submissions.c.id)
        .where(tasks.c.status.in_((Status.SUBMITTING, Status.SUBMITTED)))
        .group_by(submissions.c.signing_key_id)
    )
    return {key: count for key, count in connection.execute(query)}  # noqa: C416 - rows are no pairs to the type checker


def is_known(connection: Connection, provider_id: str) -> bool:
    """Whether the provider's task of this id belongs to an attempt of ours already."""
    query = select(submissions.c.id).where(submissions.c.provider_id == provider_id).limit(1)
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


def apply_changes(connection: Connection, changes: Mapping[str, AttemptChange]) -> None:
    """Write changes by attempt id."""
    rows = [(attempt_id, *(getattr(change, name) for name in _COLUMNS)) for attempt_id, change in changes.items()]
    _APPLY.write(connection, rows)


def _apply(given: FromClause, _dialect: str) -> ClauseElement:
    values = {name: func.coalesce(given.c[name], submissions.c[name]) for name in _COLUMNS}
    return update(submissions).where(submissions.c.id == given.c.id).values(values)


_APPLY = Bulk({name: submissions.c[name].type for name in ("id", *_COLUMNS)}, _apply)


def _submission_of(row: Mapping[str, Any]) -> Attempt:
    return Attempt(**{**row, "outcome": Outcome(row["outcome"])})


_STATUS = {status.value: status for status in Status}
_OUTCOME = {outcome.value: outcome for outcome in Outcome}


def _attempt_of(row: Sequence[Any]) -> AttemptContext:
    submission_id, task_id, outcome, provider_id, cost, *about_task = row
    account_id, key_id, is_told, status, sample, ends, tries, current, has_slot = about_task
    ends_at = None if ends is None else instant_of(ends)
    standing = AttemptState(
        _STATUS[status], bool(current), _OUTCOME[outcome], provider_id, sample, ends_at, cost, tries
    )
    return AttemptContext(submission_id, task_id, account_id, key_id, bool(is_told), bool(has_slot), standing)
