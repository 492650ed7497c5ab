"""The next tasks of the queue to admit: fairly between applications, within what each may use."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    BindParameter,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    any_,
    bindparam,
    exists,
    func,
    or_,
    select,
)

from app.db.tables import applications
from app.db.tables.slots import slots
from app.db.tables.tasks import APPLICATION, is_queued, tasks

_MAX_SKEW = timedelta(seconds=10)  # the longest wait for a lock, or the largest difference between two hosts' clocks


@dataclass(frozen=True, slots=True)
class Candidate:
    id: str
    key_id: str
    model: str
    region: str | None  # the only region of accounts that it may run in; None: any
    account_id: str  # its account until now
    provider: str
    tries: int
    submitting_at: datetime | None  # when the task was sent last


@dataclass(frozen=True, slots=True)
class Opening:
    """Which tasks can start now: those of `models`, or with `excluded` those of all others.

    `regions`: None stands for tasks that may run in any region.
    """

    regions: tuple[str | None, ...]
    models: frozenset[str]
    excluded: bool


_CANDIDATE = tuple(member.name for member in fields(Candidate))
# The regions of each opening, and whether its models are excluded: what a statement is prepared for.
Shape = tuple[tuple[tuple[str | None, ...], bool], ...]


def _waiting_applications() -> CTE:
    """Select the applications with queued tasks, one index lookup for each; the last row is NULL.

    Each step of the recursion finds the next higher id in the index, so no other row is read.
    """
    queued = tasks.alias("queued_task")
    application = applications.of(queued)
    # Not `min`: SQLite does not look up the minimum of an expression in its index.
    lowest = select(application).where(is_queued(queued)).order_by(application).limit(1)
    waiting = select(lowest.scalar_subquery().label("id")).cte("waiting_applications", recursive=True)
    following = lowest.where(application > waiting.c.id).correlate(waiting).scalar_subquery()
    return waiting.union_all(select(following).where(waiting.c.id.is_not(None)))


def _waiting_queues() -> CTE:
    """Select the applications and models with queued tasks, one index lookup for each.

    The recursion is that of `_waiting_applications`; the last row of an application has no model.
    """
    queued, waiting_applications = tasks.alias("queued_task"), _waiting_applications()
    lowest = select(queued.c.model).where(is_queued(queued)).order_by(queued.c.model).limit(1)

    def model(of: CTE, *conditions: ColumnElement[bool]) -> ColumnElement[str]:
        return lowest.where(*conditions).correlate(of).scalar_subquery().label("model")

    application = applications.of(queued)
    first = model(waiting_applications, application == waiting_applications.c.id)
    waiting = select(waiting_applications.c.id.label("application"), first).cte("waiting_queues", recursive=True)
    following = model(waiting, application == waiting.c.application, queued.c.model > waiting.c.model)
    return waiting.union_all(select(waiting.c.application, following).where(waiting.c.model.is_not(None)))


def _first_of(queue: CTE, shape: Shape) -> Select[Any]:
    """Select the first tasks of one queue that may start now, `limit` at most: no later one can be next."""
    own = tasks.alias("own")
    return (
        select(own.c.id)
        .where(
            applications.of(own) == queue.c.application,
            own.c.model == queue.c.model,
            is_queued(own),
            or_(
                own.c.dispatch_after_at <= bindparam("now"),
                # A task without a delay may be newer than `now`, which was read before the account was locked.
                and_(own.c.dispatch_after_at <= own.c.created_at, own.c.created_at <= bindparam("soon")),
            ),
            or_(
                *(
                    and_(_is_in(regions, own), _has_model(number, queue, excluded=excluded))
                    for number, (regions, excluded) in enumerate(shape)
                )
            ),
            ~exists().where(slots.c.task_id == own.c.id),
        )
        .order_by(own.c.priority.desc(), own.c.id)
        .limit(bindparam("limit"))
    )


def _is_in(regions: tuple[str | None, ...], own: FromClause) -> ColumnElement[bool]:
    named = [own.c.region == region for region in regions if region is not None]
    return or_(*([own.c.region.is_(None)] if None in regions else []), *named)


def _has_model(number: int, queue: CTE, *, excluded: bool) -> ColumnElement[bool]:
    """The condition that the tasks of a queue fit into the opening with this number; its models are a parameter."""
    models: BindParameter[str] = bindparam(f"models_{number}", expanding=True)
    return queue.c.model.not_in(models) if excluded else queue.c.model.in_(models)


@cache
def _next(dialect: str, shape: Shape) -> Select[Any]:
    """Select the next tasks that fit into openings of this shape."""
    queues = _waiting_queues()
    first = _first_of(queues, shape).correlate(queues)
    is_first: ColumnElement[bool] = tasks.c.id.in_(first)
    if dialect == "postgresql":
        # PostgreSQL would run the subquery of an IN for every task. SQLite has no arrays.
        is_first = tasks.c.id == any_(func.array(first.scalar_subquery()))
    # Without this, all tasks of a queue whose model fits nowhere would be read.
    fits = or_(*(_has_model(number, queues, excluded=excluded) for number, (_, excluded) in enumerate(shape)))
    owner_of_task = APPLICATION.label("application")
    turn = func.row_number().over(partition_by=APPLICATION, order_by=(tasks.c.priority.desc(), tasks.c.id))
    waiting = (
        select(*(tasks.c[name] for name in (*_CANDIDATE, "priority")), owner_of_task, turn.label("turn"))
        .join_from(queues, tasks, is_first)
        .where(fits)
        .subquery()
    )
    owner = applications.of(slots)
    running = select(owner.label("application"), func.count().label("in_flight")).group_by(owner).subquery()
    turn_with_slots = func.coalesce(running.c.in_flight, 0) + waiting.c.turn
    allowed = applications.applications.c.limits["in_flight"].as_integer()
    return (
        select(*(waiting.c[name] for name in _CANDIDATE))
        .outerjoin(running, running.c.application == waiting.c.application)
        .outerjoin(applications.applications, applications.applications.c.id == waiting.c.application)
        .where(or_(allowed.is_(None), turn_with_slots <= allowed))
        .order_by(waiting.c.priority.desc(), turn_with_slots, waiting.c.id)
        .limit(bindparam("limit"))
    )


def next_tasks(connection: Connection, now: datetime, openings: Sequence[Opening], limit: int) -> list[Candidate]:
    """Return the tasks to admit next that fit into one of the openings, in order, `limit` at most.

    Higher priority comes first. Within a priority, applications take turns; slots that one already has count as turns.
    An application gets no more slots than its limit `in_flight`.
    """
    if not openings:
        return []
    statement = _next(connection.dialect.name, tuple((opening.regions, opening.excluded) for opening in openings))
    models = {f"models_{number}": sorted(opening.models) for number, opening in enumerate(openings)}
    rows = connection.execute(statement, {**models, "limit": limit, "now": now, "soon": now + _MAX_SKEW})
    return [Candidate(**row._asdict()) for row in rows]
