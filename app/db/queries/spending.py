"""What reservations are judged by, and what was spent before there was a budget."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, case, exists, func, or_, select, union_all

from app import ids
from app.db.tables import applications
from app.db.tables.attempts import attempts
from app.db.tables.budget_periods import PeriodId
from app.db.tables.erased_tasks import erased
from app.db.tables.reservations import reservations
from app.db.tables.tasks import tasks
from app.rules.budget import Period, Standing, standing
from app.rules.task import MoneySpent, Status


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation with what decides about it.

    `sent`: one of its attempts may have reached the provider. `cost`: over its attempts, None if none is known.
    """

    task_id: str
    round: int
    period: PeriodId
    reserved: float
    amount: float
    is_last: bool  # False: the task was resubmitted since
    sent: bool
    cost: float | None
    status: Status
    money_spent: MoneySpent | None


_ITS_ATTEMPTS = (
    attempts.c.task_id == reservations.c.task_id,
    attempts.c.number >= reservations.c.first,
    or_(reservations.c.until.is_(None), attempts.c.number < reservations.c.until),
)
_COST = select(func.sum(attempts.c.cost)).where(*_ITS_ATTEMPTS).scalar_subquery()
_SENT = exists().where(*_ITS_ATTEMPTS, attempts.c.sent_at.is_not(None))
_OF_TASKS = (
    select(reservations, tasks.c.status, tasks.c.money_spent, _COST.label("cost"), _SENT.label("sent"))
    .join(tasks, tasks.c.id == reservations.c.task_id)
    .where(reservations.c.task_id.in_(bindparam("task_ids", expanding=True)))
    .order_by(reservations.c.task_id, reservations.c.round)
)


def reservations_of(connection: Connection, task_ids: Collection[str]) -> list[Reservation]:
    """Return the reservations of these tasks as they are now. The caller must hold the tasks' locks."""
    rows = connection.execute(_OF_TASKS, {"task_ids": sorted(task_ids)})
    return [
        Reservation(
            task_id=row.task_id,
            round=row.round,
            period=PeriodId(row.owner, Period(row.period), row.starts_at),
            reserved=row.reserved,
            amount=row.amount,
            is_last=row.until is None,
            sent=bool(row.sent),
            cost=row.cost,
            status=Status(row.status),
            money_spent=row.money_spent and MoneySpent(row.money_spent),
        )
        for row in rows
    ]


def spent_since(
    connection: Connection, begin: datetime, application_id: str | None, but: Collection[str] = ()
) -> float:
    """Return what the tasks created since `begin` count with, in credits; of one application, or of all.

    `but`: the ids of tasks to leave out.
    """
    first = ids.first_at("task", begin)
    rows = []
    for table, task_id in ((tasks, tasks.c.id), (erased, erased.c.task_id)):
        columns = (table.c.status, table.c.money_spent, table.c.cost, table.c.estimated_cost)
        query = select(*columns).where(task_id >= first, task_id.not_in(but))
        rows.append(query if application_id is None else query.where(applications.of(table) == application_id))
    posted = union_all(*rows).subquery()
    estimated = case((posted.c.cost.is_(None), posted.c.estimated_cost))
    totals = select(
        posted.c.status,
        posted.c.money_spent,
        func.coalesce(func.sum(posted.c.cost), 0.0).label("stated"),
        func.coalesce(func.sum(estimated), 0.0).label("expected"),
    ).group_by(posted.c.status, posted.c.money_spent)
    spent = 0.0
    for row in connection.execute(totals):
        of = standing(Status(row.status), row.money_spent and MoneySpent(row.money_spent))
        spent += row.stated + (0.0 if of is Standing.FREE else row.expected)
    return spent
