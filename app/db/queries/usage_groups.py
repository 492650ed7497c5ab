"""Usage in groups of the caller's choice: by application, key, model, account, end user and day."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    String,
    Table,
    and_,
    cast,
    func,
    null,
    or_,
    select,
    union_all,
)

from app import ids
from app.db.tables import applications
from app.db.tables.api_keys import keys
from app.db.tables.applications import applications as applications_table
from app.db.tables.erased_tasks import erased
from app.db.tables.tasks import tasks
from app.rules.task import MoneySpent, Status


class Dimension(StrEnum):
    """What usage can be grouped by."""

    APPLICATION = "application"
    KEY = "key"
    MODEL = "model"
    ACCOUNT = "account"
    USER = "user"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Group:
    """The tasks of one group. `of`: its value in each dimension.

    `cost` is in credits, over all attempts, as the provider stated it. `cost_estimated`: what the tasks of unknown cost
    count with. `cost_unknown`: their number.
    """

    of: Mapping[Dimension, str | None]
    posted: int
    stored: int
    failed: int
    cancelled: int
    open: int
    cost: float
    cost_estimated: float
    cost_unknown: int


_FINAL = [status for status in Status if status.final]
_COUNTED = ("status", "money_spent", "cost", "estimated_cost")


def _day(table: Table, dialect: str) -> ColumnElement[str]:
    """Return the day in UTC on which a task was created, as text. SQLite stores instants as text in UTC."""
    if dialect == "postgresql":
        return func.to_char(func.timezone("UTC", table.c.created_at), "YYYY-MM-DD")
    return func.substr(table.c.created_at, 1, 10)


def _user(table: Table, _dialect: str) -> ColumnElement[str | None]:
    """Return the end user of a task. That of an erased task is erased too."""
    return table.c.user if "user" in table.c else cast(null(), String)


_VALUE: Mapping[Dimension, Callable[[Table, str], ColumnElement[Any]]] = {
    Dimension.APPLICATION: lambda table, _dialect: applications.of(table),
    Dimension.KEY: lambda table, _dialect: table.c.key_id,
    Dimension.MODEL: lambda table, _dialect: table.c.model,
    Dimension.ACCOUNT: lambda table, _dialect: table.c.account_id,
    Dimension.USER: _user,
    Dimension.DAY: _day,
}


def grouped(
    connection: Connection,
    begin: datetime,
    end: datetime,
    by: Sequence[Dimension],
    limit: int,
    application_id: str | None = None,
) -> list[Group]:
    """Return the usage of the tasks created from `begin` up to, not including, `end`: `limit` groups at most, in order.

    `application_id`: only of this application. Erased tasks are included.
    """
    span = (ids.first_at("task", begin), ids.first_at("task", end))
    dialect = connection.dialect.name
    posted = union_all(
        _posted(tasks, tasks.c.id, span, by, dialect, application_id),
        _posted(erased, erased.c.task_id, span, by, dialect, application_id),
    ).cte()
    cost_nothing = or_(
        posted.c.status == Status.CANCELLED,
        and_(posted.c.status == Status.FAILED, posted.c.money_spent == MoneySpent.NO),
    )
    unknown = and_(posted.c.cost.is_(None), ~cost_nothing)
    dimensions = [posted.c[dimension] for dimension in by]
    query = (
        select(
            *dimensions,
            func.count().label("posted"),
            *(func.count().filter(posted.c.status == status).label(status) for status in _FINAL),
            func.count().filter(posted.c.status.not_in(_FINAL)).label("open"),
            func.coalesce(func.sum(posted.c.cost), 0.0).label("cost"),
            func.coalesce(func.sum(posted.c.estimated_cost).filter(unknown), 0.0).label("cost_estimated"),
            func.count().filter(unknown).label("cost_unknown"),
        )
        .group_by(*dimensions)
        .order_by(*dimensions)
        .limit(limit)
    )
    names = {dimension.value for dimension in by}
    rows = (row._asdict() for row in connection.execute(query))
    return [
        Group(
            of={dimension: row[dimension] for dimension in by},
            **{name: value for name, value in row.items() if name not in names},
        )
        for row in rows
        if row["posted"]  # without dimensions there is always one row
    ]


def names_of_keys(connection: Connection) -> dict[str, str]:
    """Return the names of all keys by id."""
    return {row.id: row.name for row in connection.execute(select(keys.c.id, keys.c.name))}


def names_of_applications(connection: Connection) -> dict[str, str]:
    """Return the names of all applications by id."""
    columns = applications_table.c
    return {row.id: row.name for row in connection.execute(select(columns.id, columns.name))}


def _posted(
    table: Table,
    task_id: Column[str],
    span: tuple[str, str],
    by: Sequence[Dimension],
    dialect: str,
    application_id: str | None,
) -> Select[Any]:
    """Select what is counted, of tasks or of erased tasks."""
    values = [_VALUE[dimension](table, dialect).label(dimension) for dimension in by]
    query = select(*values, *(table.c[name] for name in _COUNTED)).where(task_id >= span[0], task_id < span[1])
    return query if application_id is None else query.where(applications.of(table) == application_id)
