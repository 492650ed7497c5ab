"""What keys used: their tasks of a time, counted and added up. The ids of a time are a range of the primary key."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, func, or_, select

from app import ids
from app.record.keys import keys
from app.record.tasks import IS_FINAL, tasks
from app.task import MoneySpent, Status


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


_COST_NOTHING = or_(
    tasks.c.status == Status.CANCELLED, and_(tasks.c.status == Status.FAILED, tasks.c.money_spent == MoneySpent.NO)
)


def between(connection: Connection, begin: datetime, end: datetime, key_id: str | None = None) -> list[Used]:
    """What was posted in this time, `end` not included, by this key or by all; one for each key and model."""
    ended = {each: func.count().filter(tasks.c.status == each) for each in Status if each.final}
    posted = (
        select(
            tasks.c.key_id,
            tasks.c.model,
            func.count().label("posted"),
            *(count.label(status) for status, count in ended.items()),
            func.count().filter(~IS_FINAL).label("open"),
            func.coalesce(func.sum(tasks.c.cost), 0.0).label("cost"),
            func.count().filter(tasks.c.cost.is_(None), ~_COST_NOTHING).label("cost_unknown"),
        )
        .where(tasks.c.id >= ids.first_at("task", begin), tasks.c.id < ids.first_at("task", end))
        .group_by(tasks.c.key_id, tasks.c.model)
    )
    if key_id is not None:
        posted = posted.where(tasks.c.key_id == key_id)
    each = posted.subquery()
    named = select(each, keys.c.name.label("key_name")).outerjoin(keys, keys.c.id == each.c.key_id)
    rows = connection.execute(named.order_by(each.c.key_id, each.c.model))
    return [Used(**row._asdict()) for row in rows]
