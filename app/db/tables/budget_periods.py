"""The table `budget_periods`: what was spent of each budget in each of its periods, reservations included.

Rows are created by the first task of a period, and locked by each task that reserves credits.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Column, Connection, Float, String, Table, bindparam, delete, select, tuple_, update

from app.db.engine.columns import Instant, insert_into, metadata
from app.rules.budget import Period

ALL = "*"  # the owner of the budget for all applications together

budget_periods = Table(
    "budget_periods",
    metadata,
    Column("owner", String(48), primary_key=True),  # the id of an application, or ALL
    Column("period", String(8), primary_key=True),
    Column("starts_at", Instant, primary_key=True),
    Column("spent", Float, nullable=False),
    Column("warned_at", Instant),  # when its use was reported
)


class PeriodId(NamedTuple):
    """One period of one budget."""

    owner: str
    period: Period
    starts_at: datetime


class Spending(NamedTuple):
    """What was spent in a period, in credits."""

    spent: float
    warned: bool


_KEY = tuple_(budget_periods.c.owner, budget_periods.c.period, budget_periods.c.starts_at)
_OF = (
    budget_periods.c.owner == bindparam("of_owner"),
    budget_periods.c.period == bindparam("of_period"),
    budget_periods.c.starts_at == bindparam("of_start"),
)
_LOCK = select(budget_periods).where(*_OF).with_for_update()
_ADD = update(budget_periods).where(*_OF).values(spent=budget_periods.c.spent + bindparam("added"))
_WARN = update(budget_periods).where(*_OF).values(warned_at=bindparam("now", type_=Instant))


def lock(connection: Connection, period: PeriodId) -> Spending | None:
    """Return what was spent, locked until the transaction ends; None if nothing was recorded yet.

    A transaction that locks several periods does so in their order, so that no two wait for each other.
    """
    row = connection.execute(_LOCK, _parameters(period)).one_or_none()
    return None if row is None else Spending(row.spent, row.warned_at is not None)


def create(connection: Connection, period: PeriodId, spent: float) -> None:
    """Insert a period, unless another transaction has done so."""
    statement = insert_into(budget_periods, connection.dialect.name).values(**period._asdict(), spent=spent)
    connection.execute(statement.on_conflict_do_nothing())


def add(connection: Connection, period: PeriodId, amount: float) -> None:
    """Add credits to what was spent; a negative amount releases them."""
    connection.execute(_ADD, {**_parameters(period), "added": amount})


def mark_warned(connection: Connection, period: PeriodId, now: datetime) -> None:
    connection.execute(_WARN, {**_parameters(period), "now": now})


def read(connection: Connection, periods: Sequence[PeriodId]) -> dict[PeriodId, float]:
    """Return what was spent in each of these periods, without a lock. Periods without tasks are left out."""
    rows = connection.execute(select(budget_periods).where(_KEY.in_(periods)))
    return {PeriodId(row.owner, Period(row.period), row.starts_at): row.spent for row in rows}


def prune(connection: Connection, before: datetime) -> None:
    """Delete periods that started before this time."""
    connection.execute(delete(budget_periods).where(budget_periods.c.starts_at < before))


def _parameters(period: PeriodId) -> dict[str, str | datetime]:
    return {"of_owner": period.owner, "of_period": period.period, "of_start": period.starts_at}
