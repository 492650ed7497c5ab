"""The queue: the queued tasks without a slot, their order and their positions."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Exists,
    Select,
    bindparam,
    exists,
    func,
    select,
)

from app.db.tables import applications
from app.db.tables.api_keys import keys
from app.db.tables.provider_accounts import accounts
from app.db.tables.slots import slots
from app.db.tables.tasks import APPLICATION, IS_QUEUED, is_queued, tasks
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


def _positions() -> Select[Any]:
    """Select the positions of several tasks, with one look at the queue of each application."""
    requested: BindParameter[str] = bindparam("task_ids", expanding=True)
    theirs = tasks.alias("requested")
    owners = select(applications.of(theirs)).where(theirs.c.id.in_(requested), is_queued(theirs))
    position = func.row_number().over(partition_by=APPLICATION, order_by=(tasks.c.priority.desc(), tasks.c.id))
    in_order = select(tasks.c.id, position.label("position")).where(IS_QUEUED, APPLICATION.in_(owners), ~_has_slot())
    waiting = in_order.subquery()
    return select(waiting.c.id, waiting.c.position).where(waiting.c.id.in_(requested))


_POSITION, _POSITIONS = _position(), _positions()
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


def depths(connection: Connection) -> list[Depth]:
    """Return the length of each queue in which tasks wait for a slot."""
    query = (
        select(
            tasks.c.account_id,
            tasks.c.model,
            func.count().label("length"),
            func.min(tasks.c.dispatch_after_at).label("since"),
        )
        .where(tasks.c.status == Status.QUEUED, ~_has_slot())
        .group_by(tasks.c.account_id, tasks.c.model)
    )
    return [Depth(**row._asdict()) for row in connection.execute(query)]


def positions(connection: Connection, task_ids: Collection[str]) -> dict[str, int]:
    """Return the positions of these tasks, by task id: from 1, by priority, then arrival.

    Only tasks of the same application count, so that no other one learns how many there are. Tasks that are not queued
    or that have a slot are left out.
    """
    if len(task_ids) == 1:
        rows = connection.execute(_POSITION, {"task_id": next(iter(task_ids))})
    else:
        rows = connection.execute(_POSITIONS, {"task_ids": list(task_ids)})
    return {row.id: row.position for row in rows}


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
