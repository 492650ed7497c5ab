"""What keys used: their tasks of a time, counted and added up. The ids of a time are a range of the primary key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, and_, func, or_, select, union_all

from app import ids
from app.db.tables.api_keys import keys
from app.db.tables.erased_tasks import erased
from app.db.tables.tasks import tasks
from app.rules.task import MoneySpent, Status

_COUNTED = ("key_id", "model", "status", "money_spent", "cost")


@dataclass(frozen=True, slots=True)
class Used:
    """The tasks of one key and one model. `cost` is in credits, over all attempts; what nobody told is not in it."""

    key_id: str
    key_name: str | None
    model: str
    posted: int
    stored: int
    failed: int
    cancelled: int
    open: int
    cost: float
    cost_unknown: int  # tasks that are not known to have cost nothing, and of which no cost is known


def between(connection: Connection, begin: datetime, end: datetime, key_id: str | None = None) -> list[Used]:
    """What was posted in this time, `end` not included, by this key or by all; one for each key and model."""
    span = (ids.first_at("task", begin), ids.first_at("task", end))
    posted = union_all(_posted(tasks, tasks.c.id, span, key_id), _posted(erased, erased.c.task_id, span, key_id)).cte()
    ended = {each: func.count().filter(posted.c.status == each) for each in Status if each.final}
    cost_nothing = or_(
        posted.c.status == Status.CANCELLED,
        and_(posted.c.status == Status.FAILED, posted.c.money_spent == MoneySpent.NO),
    )
    used = (
        select(
            posted.c.key_id,
            posted.c.model,
            func.count().label("posted"),
            *(count.label(status) for status, count in ended.items()),
            func.count().filter(posted.c.status.not_in(list(ended))).label("open"),
            func.coalesce(func.sum(posted.c.cost), 0.0).label("cost"),
            func.count().filter(posted.c.cost.is_(None), ~cost_nothing).label("cost_unknown"),
        )
        .group_by(posted.c.key_id, posted.c.model)
        .subquery()
    )
    named = select(used, keys.c.name.label("key_name")).outerjoin(keys, keys.c.id == used.c.key_id)
    rows = connection.execute(named.order_by(used.c.key_id, used.c.model))
    return [Used(**row._asdict()) for row in rows]


def _posted(table: Table, task_id: Column[str], span: tuple[str, str], key_id: str | None) -> Select[Any]:
    """Of tasks, or of what is left of those that were erased."""
    found = select(*(table.c[name] for name in _COUNTED)).where(task_id >= span[0], task_id < span[1])
    return found if key_id is None else found.where(table.c.key_id == key_id)
