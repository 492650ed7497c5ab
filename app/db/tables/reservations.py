"""The table `reservations`: what each task counts with in each budget that pays for it.

A task that is resubmitted is reserved again, in the budgets of the application that asked: each time is a `round`. A
reservation covers the attempts from `first` up to, not including, `until`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Column, Connection, Float, Integer, String, Table, bindparam, case, update

from app.db.engine.columns import Instant, metadata
from app.db.tables.budget_periods import PeriodId

reservations = Table(
    "reservations",
    metadata,
    Column("task_id", String(48), primary_key=True),
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(48), primary_key=True),  # of the budget: an application, or all
    Column("period", String(8), nullable=False),
    Column("starts_at", Instant, nullable=False),
    Column("reserved", Float, nullable=False),  # counts while the cost is unknown
    Column("amount", Float, nullable=False),  # what is counted in the period
    Column("first", Integer, nullable=False),  # the number of an attempt
    Column("until", Integer),  # the same; NULL in the last round
)


class NewReservation(NamedTuple):
    """Credits held for the attempts of a task from the one with the number `first` on."""

    task_id: str
    round: int
    first: int
    period: PeriodId
    reserved: float


_OF = (
    reservations.c.task_id == bindparam("of_task"),
    reservations.c.round == bindparam("of_round"),
    reservations.c.owner == bindparam("of_owner"),
)
_SET_AMOUNT = update(reservations).where(*_OF).values(amount=bindparam("new_amount"))


def insert(connection: Connection, rows: Sequence[NewReservation]) -> None:
    values = [
        {
            "task_id": row.task_id,
            "round": row.round,
            "first": row.first,
            **row.period._asdict(),
            "reserved": row.reserved,
            "amount": row.reserved,
        }
        for row in rows
    ]
    connection.execute(reservations.insert(), values)


class NewAmount(NamedTuple):
    """What a reservation counts with from now on."""

    of_task: str
    of_round: int
    of_owner: str
    new_amount: float


def set_amounts(connection: Connection, amounts: Sequence[NewAmount]) -> None:
    """Record what these reservations, at least one, count with."""
    connection.execute(_SET_AMOUNT, [amount._asdict() for amount in amounts])


def end_at(connection: Connection, task_id: str, number: int, *, release: bool) -> None:
    """End the last reservation of a task before this attempt. `release`: it holds nothing from now on."""
    values = {"until": number, **({"reserved": 0.0} if release else {})}
    of_task = reservations.c.task_id == task_id, reservations.c.until.is_(None)
    connection.execute(update(reservations).where(*of_task).values(values))


def hold(connection: Connection, task_id: str, amount: float) -> None:
    """Replace what the reservations of a task hold, in all rounds together."""
    held = case((reservations.c.until.is_(None), amount), else_=0.0)
    connection.execute(update(reservations).where(reservations.c.task_id == task_id).values(reserved=held))
