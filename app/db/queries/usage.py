"""Usage of API keys: counts and costs of the tasks created in a time span.

Ids sort by creation time, so a time span is a range of the primary key.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, and_, func, or_, select, union_all

from app import ids
from app.db.tables.api_keys import keys
from app.db.tables.erased_tasks import erased
from app.db.tables.tasks import tasks
from app.rules.task import MoneySpent, Status

_COLUMNS = ("key_id", "model", "status", "money_spent", "cost")


@dataclass(frozen=True, slots=True)
class Used:
    """The tasks of one key and one model. `cost` is in credits, over all attempts; unknown costs are not in it."""

    key_id: str
    key_name: str | None
    model: str
    posted: int
    stored: int
    failed: int
    cancelled: int
    open: int
    cost: float
    cost_unknown: int  # tasks without a known cost, except those that certainly cost nothing


def between(connection: Connection, begin: datetime, end: datetime, key_id: str | None = None) -> list[Used]:
    """Return the usage by key and model of the tasks created from `begin` up to, not including, `end`.

    With `key_id`, only of this key. Erased tasks are included.
    """
    span = (ids.first_at("task", begin), ids.first_at("task", end))
    posted = union_all(_posted(tasks, tasks.c.id, span, key_id), _posted(erased, erased.c.task_id, span, key_id)).cte()
    final_counts = {status: func.count().filter(posted.c.status == status) for status in Status if status.final}
    cost_nothing = or_(
        posted.c.status == Status.CANCELLED,
        and_(posted.c.status == Status.FAILED, posted.c.money_spent == MoneySpent.NO),
    )
    totals = (
        select(
            posted.c.key_id,
            posted.c.model,
            func.count().label("posted"),
            *(count.label(status) for status, count in final_counts.items()),
            func.count().filter(posted.c.status.not_in(list(final_counts))).label("open"),
            func.coalesce(func.sum(posted.c.cost), 0.0).label("cost"),
            func.count().filter(posted.c.cost.is_(None), ~cost_nothing).label("cost_unknown"),
        )
        .group_by(posted.c.key_id, posted.c.model)
        .subquery()
    )
    with_names = select(totals, keys.c.name.label("key_name")).outerjoin(keys, keys.c.id == totals.c.key_id)
    rows = connection.execute(with_names.order_by(totals.c.key_id, totals.c.model))
    return [Used(**row._asdict()) for row in rows]


def _posted(table: Table, task_id: Column[str], span: tuple[str, str], key_id: str | None) -> Select[Any]:
    """Select the counted columns, of tasks or of erased tasks."""
    query = select(*(table.c[name] for name in _COLUMNS)).where(task_id >= span[0], task_id < span[1])
    return query if key_id is None else query.where(table.c.key_id == key_id)
