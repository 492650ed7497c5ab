"""The queue: the queued tasks without a slot, their order and their positions."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Exists,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    select,
)

from app.db.tables import applications
from app.db.tables.api_keys import keys
from app.db.tables.provider_accounts import accounts
from app.db.tables.slots import slots
from app.db.tables.tasks import APPLICATION, IS_QUEUED, is_queued, is_queued_for_model, tasks
from app.rules.task import Status


@dataclass(frozen=True, slots=True)
class TaskSlot:
    """The slot of a task, with the pause of its account.

    `configured`: the account may still get tasks. `stopped`: the key of the task was revoked with its queued tasks.
    """

    account_id: str
    paused_until_at: datetime | None
    configured: bool
    stopped: bool


# For rows that are found by their ids: SQLite would read the index of the whole queue for IS_QUEUED.
_HAS_QUEUED_ROW = func.coalesce(tasks.c.status, "") == Status.QUEUED


def _has_slot() -> Exists:
    return exists().where(slots.c.task_id == tasks.c.id)


def _position() -> Select[Any]:
    """Select the position of one task among those of their application, counted in the index that admission reads.

    Queued tasks that have a slot are then subtracted; no other task's row is read.
    """
    ahead = tasks.alias("ahead")
    own = applications.of(ahead) == APPLICATION
    more_urgent = ahead.c.priority > tasks.c.priority
    earlier = (ahead.c.priority == tasks.c.priority) & (ahead.c.id < tasks.c.id)
    queued = is_queued(ahead)
    has_slot = exists().where(ahead.c.id == slots.c.task_id, own, queued, more_urgent | earlier).correlate(slots, tasks)

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return select(func.count()).where(*conditions).scalar_subquery()

    queued_ahead = count(own, queued, more_urgent) + count(own, queued, earlier)
    with_slot = select(func.count()).select_from(slots).where(has_slot).scalar_subquery()
    position = 1 + queued_ahead - with_slot
    return select(tasks.c.id, position.label("position")).where(
        tasks.c.id == bindparam("task_id"), IS_QUEUED, ~_has_slot()
    )


def _ahead() -> Select[Any]:
    """Select for several tasks how many are queued between the requested one before it and the task itself.

    The requested one before it has the same application and priority. The first of these has those with a higher
    priority too. So each part of the queue is counted once, in the index that admission reads.
    """
    requested: BindParameter[str] = bindparam("task_ids", expanding=True)
    previous = func.lag(tasks.c.id).over(partition_by=(APPLICATION, tasks.c.priority), order_by=tasks.c.id)
    theirs = (
        select(tasks.c.id, APPLICATION.label("application"), tasks.c.priority, previous.label("previous"))
        .where(tasks.c.id.in_(requested), _HAS_QUEUED_ROW, ~_has_slot())
        .subquery()
    )
    ahead = tasks.alias("ahead")
    queued = (applications.of(ahead) == theirs.c.application, is_queued(ahead))

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return select(func.count()).where(*queued, *conditions).scalar_subquery()

    since = func.coalesce(theirs.c.previous, "")
    between = count(ahead.c.priority == theirs.c.priority, ahead.c.id >= since, ahead.c.id < theirs.c.id)
    more_urgent = case((theirs.c.previous.is_(None), count(ahead.c.priority > theirs.c.priority)), else_=0)
    return select(
        theirs.c.id, theirs.c.application, theirs.c.priority, (between + more_urgent).label("ahead")
    ).order_by(theirs.c.id)


_POSITION, _AHEAD = _position(), _ahead()
_WITH_SLOT = select(APPLICATION.label("application"), tasks.c.priority, tasks.c.id).where(
    tasks.c.id.in_(select(slots.c.task_id)), _HAS_QUEUED_ROW
)
_LOCK_ROWS = (
    select(tasks.c.id)
    .where(tasks.c.id.in_(bindparam("task_ids", expanding=True)), IS_QUEUED)
    .with_for_update(skip_locked=True)
)
_STOPPED = exists().where(tasks.c.id == slots.c.task_id, keys.c.id == tasks.c.key_id, keys.c.stop_queued.is_(True))
_SLOT = (
    select(
        slots.c.account_id,
        accounts.c.paused_until_at,
        accounts.c.position.is_not(None).label("configured"),
        _STOPPED.label("stopped"),
    )
    .outerjoin(accounts, accounts.c.id == slots.c.account_id)
    .where(slots.c.task_id == bindparam("task_id"))
)


def lock_rows(connection: Connection, task_ids: Collection[str]) -> set[str]:
    """Lock those of these tasks that are queued and not locked by another transaction. Return their ids.

    The locks last until the transaction ends.
    """
    return set(connection.execute(_LOCK_ROWS, {"task_ids": list(task_ids)}).scalars())


@dataclass(frozen=True, slots=True)
class Depth:
    """The queue of one account for one model: its length, and when the task that has waited longest joined it."""

    account_id: str
    model: str
    length: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Queued:
    """All queued tasks: their number, with those that have a slot, and each queue in which tasks wait for a slot."""

    count: int
    depths: list[Depth]


def _depths(queued: Callable[[FromClause], ColumnElement[bool]]) -> Select[Any]:
    """Select the number of queued tasks, the number without a slot and the oldest of these for each account and model.

    The tasks are counted in the order of an index. Those that have a slot, few at any time, are then subtracted, which
    takes a third of the time of looking for the slot of each.
    """
    queue = (tasks.c.account_id, tasks.c.model)
    queues = select(*queue, func.count().label("queued")).where(queued(tasks)).group_by(*queue).subquery("queues")
    in_slots = (
        select(*queue, func.count().label("with_slot"))
        .where(tasks.c.id.in_(select(slots.c.task_id)), _HAS_QUEUED_ROW)
        .group_by(*queue)
        .subquery("in_slots")
    )
    oldest = tasks.alias("oldest")
    since = (
        select(oldest.c.dispatch_after_at)
        .where(queued(oldest), oldest.c.account_id == queues.c.account_id, oldest.c.model == queues.c.model)
        .where(~exists().where(slots.c.task_id == oldest.c.id))
        .order_by(oldest.c.dispatch_after_at)
        .limit(1)
    )
    return select(
        queues.c.account_id,
        queues.c.model,
        queues.c.queued,
        (queues.c.queued - func.coalesce(in_slots.c.with_slot, 0)).label("length"),
        since.correlate(queues).scalar_subquery().label("since"),
    ).outerjoin_from(
        queues, in_slots, and_(in_slots.c.account_id == queues.c.account_id, in_slots.c.model == queues.c.model)
    )


# By dialect: each with the condition of its index.
_DEPTHS = {"sqlite": _depths(is_queued), "postgresql": _depths(is_queued_for_model)}


def queued(connection: Connection) -> Queued:
    """Count the queued tasks of all applications. They are counted once, because there may be many."""
    rows = connection.execute(_DEPTHS[connection.dialect.name]).all()
    depths = [Depth(row.account_id, row.model, row.length, row.since) for row in rows if row.length]
    return Queued(sum(row.queued for row in rows), depths)


def positions(connection: Connection, task_ids: Collection[str]) -> dict[str, int]:
    """Return the positions of these tasks, by task id: from 1, by priority, then arrival.

    Only tasks of the same application count, so that no other one learns how many there are. Tasks that are not queued
    or that have a slot are left out.
    """
    if len(task_ids) == 1:
        rows = connection.execute(_POSITION, {"task_id": next(iter(task_ids))})
        return {row.id: row.position for row in rows}
    waiting = connection.execute(_AHEAD, {"task_ids": list(task_ids)}).all()
    with_slot = connection.execute(_WITH_SLOT).all() if waiting else []
    queued_ahead: Counter[tuple[str, int]] = Counter()  # by application and priority, up to the current task
    found = {}
    for row in waiting:
        queued_ahead[row.application, row.priority] += row.ahead
        admitted_ahead = sum(
            each.application == row.application and (-each.priority, each.id) < (-row.priority, row.id)
            for each in with_slot
        )
        # At least 1, because a task may be admitted between the two statements of a transaction that writes.
        found[row.id] = max(1, 1 + queued_ahead[row.application, row.priority] - admitted_ahead)
    return found


def admitted(connection: Connection) -> set[str]:
    """Return the ids of queued tasks that have a slot and wait only for their dispatch job. Reads no other task.

    Those of a key that was revoked with its queued tasks are left out: they wait for the sweep that cancels them.
    """
    stopped = slots.c.key_id.in_(select(keys.c.id).where(keys.c.stop_queued.is_(True)))
    query = select(tasks.c.id).where(
        tasks.c.status == Status.QUEUED, tasks.c.id.in_(select(slots.c.task_id).where(~stopped))
    )
    return set(connection.execute(query).scalars())


def is_admitted(connection: Connection, task_id: str) -> bool:
    """Return whether a task has a slot, in whatever state."""
    return slot_of(connection, task_id) is not None


def slot_of(connection: Connection, task_id: str) -> TaskSlot | None:
    """Return the slot of a task, in whatever state, or None if it has none."""
    row = connection.execute(_SLOT, {"task_id": task_id}).one_or_none()
    return None if row is None else TaskSlot(**row._asdict())


def past_deadline(connection: Connection, now: datetime, among: Collection[str] | None = None) -> list[str]:
    """Return the ids of queued tasks whose deadline has passed; with `among`, only those of these tasks."""
    query = select(tasks.c.id).where(IS_QUEUED, tasks.c.deadline_at <= now, *_among(among))
    return list(connection.execute(query).scalars())


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued task, with what decides which accounts may take it."""

    id: str
    model: str
    region: str | None


def waiting_since(
    connection: Connection, account_ids: Collection[str], since: datetime, among: Collection[str] | None = None
) -> list[Waiting]:
    """Return the queued tasks of these accounts that have been due since `since` or longer.

    With `among`, only those of these tasks.
    """
    query = select(tasks.c.id, tasks.c.model, tasks.c.region).where(
        tasks.c.status == Status.QUEUED,
        tasks.c.account_id.in_(account_ids),
        tasks.c.dispatch_after_at <= since,  # creation, `resubmit` or the end of the last delay
        *_among(among),
    )
    return [Waiting(**row._asdict()) for row in connection.execute(query)]


def _among(task_ids: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if task_ids is None else [tasks.c.id.in_(task_ids)]
