"""The queue: the queued tasks without a slot, their order and their positions."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Connection,
    Exists,
    Select,
    and_,
    any_,
    bindparam,
    exists,
    func,
    or_,
    select,
)

from app.db.tables.provider_accounts import slots
from app.db.tables.tasks import IS_QUEUED, is_queued, tasks
from app.rules.task import Status

_ACCOUNT: BindParameter[str] = bindparam("account_id")
_MAX_SKEW = timedelta(seconds=10)  # the longest wait for a lock, or the largest difference between two hosts' clocks


@dataclass(frozen=True, slots=True)
class Candidate:
    id: str
    key_id: str
    model: str
    submitting_at: datetime | None  # when the task was sent last


def _has_slot() -> Exists:
    return exists().where(slots.c.task_id == tasks.c.id)


def _waiting_keys() -> CTE:
    """Select the API keys with queued tasks, one index lookup for each key; the last row is NULL.

    Each step of the recursion finds the next higher key id in the index, so no other row is read.
    """
    queued = tasks.alias("queued_task")
    lowest = select(func.min(queued.c.key_id).label("key_id")).where(queued.c.account_id == _ACCOUNT, is_queued(queued))
    keys = lowest.cte("waiting_keys", recursive=True)
    following = lowest.where(queued.c.key_id > keys.c.key_id).correlate(keys).scalar_subquery()
    return keys.union_all(select(following).where(keys.c.key_id.is_not(None)))


def _first_of(key_id: ColumnElement[str]) -> Select[Any]:
    """Select the first tasks of one key that may start now, `limit` at most: no later task of the key can be next."""
    of_key = tasks.alias("of_key")
    return (
        select(of_key.c.id)
        .where(
            of_key.c.account_id == _ACCOUNT,
            of_key.c.key_id == key_id,
            is_queued(of_key),
            or_(
                of_key.c.dispatch_after_at <= bindparam("now"),
                # A task without a delay may be newer than `now`, which was read before the account was locked.
                and_(of_key.c.dispatch_after_at <= of_key.c.created_at, of_key.c.created_at <= bindparam("soon")),
            ),
            of_key.c.model.not_in(bindparam("full_models", expanding=True)),
            ~exists().where(slots.c.task_id == of_key.c.id),
        )
        .order_by(of_key.c.priority.desc(), of_key.c.id)
        .limit(bindparam("limit"))
    )


def _next(dialect: str) -> Select[Any]:
    keys = _waiting_keys()
    first = _first_of(keys.c.key_id).correlate(keys)
    is_first: ColumnElement[bool] = tasks.c.id.in_(first)
    if dialect == "postgresql":
        # PostgreSQL would run the subquery of an IN for every task. SQLite has no arrays.
        is_first = tasks.c.id == any_(func.array(first.scalar_subquery()))
    turn = func.row_number().over(partition_by=tasks.c.key_id, order_by=(tasks.c.priority.desc(), tasks.c.id))
    waiting = (
        select(tasks.c.id, tasks.c.key_id, tasks.c.model, tasks.c.submitting_at, tasks.c.priority, turn.label("turn"))
        .join_from(keys, tasks, is_first)
        .subquery()
    )
    running = (
        select(slots.c.key_id, func.count().label("in_flight"))
        .where(slots.c.account_id == _ACCOUNT)
        .group_by(slots.c.key_id)
        .subquery()
    )
    return (
        select(waiting.c.id, waiting.c.key_id, waiting.c.model, waiting.c.submitting_at)
        .outerjoin(running, running.c.key_id == waiting.c.key_id)
        .order_by(
            waiting.c.priority.desc(),
            func.coalesce(running.c.in_flight, 0) + waiting.c.turn,
            waiting.c.id,
        )
        .limit(bindparam("limit"))
    )


def _positions() -> Select[Any]:
    """Select the positions of tasks, counted in the index that has the order of the queue.

    Queued tasks that have a slot are then subtracted; no other task's row is read.
    """
    ahead = tasks.alias("ahead")
    more_urgent = ahead.c.priority > tasks.c.priority
    earlier = (ahead.c.priority == tasks.c.priority) & (ahead.c.id < tasks.c.id)
    queued = (ahead.c.account_id == tasks.c.account_id) & is_queued(ahead)
    has_slot = exists().where(ahead.c.id == slots.c.task_id, queued, more_urgent | earlier).correlate(slots, tasks)

    def count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
        return select(func.count()).where(*conditions).scalar_subquery()

    queued_ahead = count(queued, more_urgent) + count(queued, earlier)
    position = 1 + queued_ahead - count(slots.c.account_id == tasks.c.account_id, has_slot)
    requested = tasks.c.id.in_(bindparam("task_ids", expanding=True))
    return select(tasks.c.id, position.label("position")).where(requested, IS_QUEUED, ~_has_slot())


_NEXT = {dialect: _next(dialect) for dialect in ("sqlite", "postgresql")}
_POSITIONS = _positions()
_LOCK_ROWS = (
    select(tasks.c.id)
    .where(tasks.c.id.in_(bindparam("task_ids", expanding=True)), IS_QUEUED)
    .with_for_update(skip_locked=True)
)
_SLOT = select(slots.c.number).where(slots.c.task_id == bindparam("task_id"))


def next_tasks(
    connection: Connection, account_id: str, now: datetime, full_models: Collection[str], limit: int
) -> list[Candidate]:
    """Return the tasks to admit next, in order, `limit` at most, without tasks of `full_models`.

    Higher priority comes first. Within a priority, keys take turns; slots that a key already has count as turns.
    """
    instants = {"now": now, "soon": now + _MAX_SKEW}
    parameters = {"account_id": account_id, "full_models": list(full_models), "limit": limit, **instants}
    rows = connection.execute(_NEXT[connection.dialect.name], parameters)
    return [Candidate(**row._asdict()) for row in rows]


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
        select(tasks.c.account_id, tasks.c.model, func.count(), func.min(tasks.c.dispatch_after_at))
        .where(tasks.c.status == Status.QUEUED, ~_has_slot())
        .group_by(tasks.c.account_id, tasks.c.model)
    )
    return [Depth(*row) for row in connection.execute(query)]


def positions(connection: Connection, task_ids: Collection[str]) -> dict[str, int]:
    """Return the positions of these tasks in their accounts' queues, by task id: from 1, by priority, then arrival.

    Tasks that are not queued or that have a slot are left out.
    """
    rows = connection.execute(_POSITIONS, {"task_ids": list(task_ids)})
    return {row.id: row.position for row in rows}


def admitted(connection: Connection) -> set[str]:
    """Return the ids of queued tasks that have a slot and wait only for their dispatch job."""
    query = select(tasks.c.id).where(tasks.c.status == Status.QUEUED, _has_slot())
    return set(connection.execute(query).scalars())


def is_admitted(connection: Connection, task_id: str) -> bool:
    """Return whether a task has a slot, in whatever state."""
    return connection.execute(_SLOT, {"task_id": task_id}).one_or_none() is not None


def past_deadline(connection: Connection, now: datetime, among: Collection[str] | None = None) -> list[str]:
    """Return the ids of queued tasks whose deadline has passed; with `among`, only those of these tasks."""
    query = select(tasks.c.id).where(tasks.c.status == Status.QUEUED, tasks.c.deadline_at <= now, *_among(among))
    return list(connection.execute(query).scalars())


def waiting_since(
    connection: Connection, account_ids: Collection[str], since: datetime, among: Collection[str] | None = None
) -> list[str]:
    """Return the ids of queued tasks of these accounts that have been due since `since` or longer.

    With `among`, only those of these tasks.
    """
    query = select(tasks.c.id).where(
        tasks.c.status == Status.QUEUED,
        tasks.c.account_id.in_(account_ids),
        tasks.c.dispatch_after_at <= since,  # creation, `resubmit` or the end of the last delay
        *_among(among),
    )
    return list(connection.execute(query).scalars())


def _among(task_ids: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if task_ids is None else [tasks.c.id.in_(task_ids)]
