"""The queue is the queued tasks that hold no slot: who comes next, and who stands where."""

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
_LOCK_WAIT = timedelta(seconds=10)  # how long a transaction may have waited, or the clocks of two hosts differ


@dataclass(frozen=True, slots=True)
class Candidate:
    id: str
    key_id: str
    model: str


def _has_slot() -> Exists:
    return exists().where(slots.c.task_id == tasks.c.id)


def _waiting_keys() -> CTE:
    """Whose tasks are queued. Each is found in the index by the one before, so no other row is read; NULL ends them."""
    each = tasks.alias("each")
    theirs = select(func.min(each.c.key_id).label("key_id")).where(each.c.account_id == _ACCOUNT, is_queued(each))
    found = theirs.cte("waiting_keys", recursive=True)
    following = theirs.where(each.c.key_id > found.c.key_id).correlate(found).scalar_subquery()
    return found.union_all(select(following).where(found.c.key_id.is_not(None)))


def _first_of(key_id: ColumnElement[str]) -> Select[Any]:
    """The tasks of a key that may go now, as many as there is room for: none behind them is next."""
    mine = tasks.alias("mine")
    return (
        select(mine.c.id)
        .where(
            mine.c.account_id == _ACCOUNT,
            mine.c.key_id == key_id,
            is_queued(mine),
            or_(
                mine.c.dispatch_after_at <= bindparam("now"),
                # One that never had to wait may be newer than `now`, which was read before the account was locked.
                and_(mine.c.dispatch_after_at <= mine.c.created_at, mine.c.created_at <= bindparam("soon")),
            ),
            mine.c.model.not_in(bindparam("full_models", expanding=True)),
            ~exists().where(slots.c.task_id == mine.c.id),
        )
        .order_by(mine.c.priority.desc(), mine.c.id)
        .limit(bindparam("most"))
    )


def _next(dialect: str) -> Select[Any]:
    keys = _waiting_keys()
    first = _first_of(keys.c.key_id).correlate(keys)
    of_these: ColumnElement[bool] = tasks.c.id.in_(first)
    if dialect == "postgresql":
        # It would run what stands behind IN for every task. SQLite has no arrays.
        of_these = tasks.c.id == any_(func.array(first.scalar_subquery()))
    turn = func.row_number().over(partition_by=tasks.c.key_id, order_by=(tasks.c.priority.desc(), tasks.c.id))
    waiting = (
        select(tasks.c.id, tasks.c.key_id, tasks.c.model, tasks.c.priority, turn.label("turn"))
        .join_from(keys, tasks, of_these)
        .subquery()
    )
    held = (
        select(slots.c.key_id, func.count().label("in_flight"))
        .where(slots.c.account_id == _ACCOUNT)
        .group_by(slots.c.key_id)
        .subquery()
    )
    return (
        select(waiting.c.id, waiting.c.key_id, waiting.c.model)
        .outerjoin(held, held.c.key_id == waiting.c.key_id)
        .order_by(
            waiting.c.priority.desc(),
            func.coalesce(held.c.in_flight, 0) + waiting.c.turn,
            waiting.c.id,
        )
        .limit(bindparam("most"))
    )


def _positions() -> Select[Any]:
    """Counted in the index that has the queue in its order; nobody else's row is read but of those that hold slots."""
    ahead = tasks.alias("ahead")
    more_urgent = ahead.c.priority > tasks.c.priority
    came_before = (ahead.c.priority == tasks.c.priority) & (ahead.c.id < tasks.c.id)
    queued = (ahead.c.account_id == tasks.c.account_id) & is_queued(ahead)
    leaving = exists().where(ahead.c.id == slots.c.task_id, queued, more_urgent | came_before).correlate(slots, tasks)

    def count(*which: ColumnElement[bool]) -> ColumnElement[int]:
        return select(func.count()).where(*which).scalar_subquery()

    waiting = count(queued, more_urgent) + count(queued, came_before)
    position = 1 + waiting - count(slots.c.account_id == tasks.c.account_id, leaving)
    these = tasks.c.id.in_(bindparam("task_ids", expanding=True))
    return select(tasks.c.id, position.label("position")).where(these, IS_QUEUED, ~_has_slot())


_NEXT = {dialect: _next(dialect) for dialect in ("sqlite", "postgresql")}
_POSITIONS = _positions()
_HOLD = (
    select(tasks.c.id)
    .where(tasks.c.id.in_(bindparam("task_ids", expanding=True)), IS_QUEUED)
    .with_for_update(skip_locked=True)
)
_SLOT = select(slots.c.number).where(slots.c.task_id == bindparam("task_id"))


def next_tasks(
    connection: Connection, account_id: str, now: datetime, full_models: Collection[str], limit: int
) -> list[Candidate]:
    """Who is admitted next. Among equals in priority, a key's turn comes after what it has in flight already."""
    instants = {"now": now, "soon": now + _LOCK_WAIT}
    given = {"account_id": account_id, "full_models": list(full_models), "most": limit, **instants}
    rows = connection.execute(_NEXT[connection.dialect.name], given)
    return [Candidate(*row) for row in rows]


def hold(connection: Connection, task_ids: Collection[str]) -> set[str]:
    """Those of these that are queued and that nobody else is about to move; nor will, until the transaction ends."""
    return set(connection.execute(_HOLD, {"task_ids": list(task_ids)}).scalars())


@dataclass(frozen=True, slots=True)
class Depth:
    """The queued tasks of one model in one account that hold no slot; `since` is when the first of them joined."""

    account_id: str
    model: str
    length: int
    since: datetime


def depths(connection: Connection) -> list[Depth]:
    """Where tasks wait for a slot, and how many."""
    query = (
        select(tasks.c.account_id, tasks.c.model, func.count(), func.min(tasks.c.dispatch_after_at))
        .where(tasks.c.status == Status.QUEUED, ~_has_slot())
        .group_by(tasks.c.account_id, tasks.c.model)
    )
    return [Depth(*row) for row in connection.execute(query)]


def positions(connection: Connection, task_ids: Collection[str]) -> dict[str, int]:
    """Where these tasks stand in their queue, counted from 1, by priority and arrival; admitted ones are not in it."""
    rows = connection.execute(_POSITIONS, {"task_ids": list(task_ids)})
    return {row.id: row.position for row in rows}


def admitted(connection: Connection) -> set[str]:
    """The queued tasks that hold a slot: they are about to be dispatched."""
    query = select(tasks.c.id).where(tasks.c.status == Status.QUEUED, _has_slot())
    return set(connection.execute(query).scalars())


def is_admitted(connection: Connection, task_id: str) -> bool:
    return connection.execute(_SLOT, {"task_id": task_id}).one_or_none() is not None


def past_deadline(connection: Connection, now: datetime, among: Collection[str] | None = None) -> list[str]:
    """The tasks, or those of some, whose deadline has passed in the queue."""
    query = select(tasks.c.id).where(tasks.c.status == Status.QUEUED, tasks.c.deadline_at <= now, *_among(among))
    return list(connection.execute(query).scalars())


def waiting_since(
    connection: Connection, account_ids: Collection[str], since: datetime, among: Collection[str] | None = None
) -> list[str]:
    """The tasks of these accounts, or those of some, that have waited since then or for longer."""
    query = select(tasks.c.id).where(
        tasks.c.status == Status.QUEUED,
        tasks.c.account_id.in_(account_ids),
        tasks.c.dispatch_after_at <= since,  # since it was asked for, or asked for again
        *_among(among),
    )
    return list(connection.execute(query).scalars())


def _among(task_ids: Collection[str] | None) -> list[ColumnElement[bool]]:
    return [] if task_ids is None else [tasks.c.id.in_(task_ids)]
