"""Usage of API keys: counts and costs of the tasks created in a time span.

Ids sort by creation time, so a time span is a range of the primary key.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, and_, func, or_, select, union_all

from app import ids
from app.db.tables import applications
from app.db.tables.api_keys import keys
from app.db.tables.erased_tasks import erased
from app.db.tables.tasks import tasks
from app.rules.task import MoneySpent, Status
from app.rules.usage import Used

_COLUMNS = ("key_id", "model", "status", "money_spent", "cost")


def between(connection: Connection, begin: datetime, end: datetime, owner: str | None = None) -> list[Used]:
    """Return the usage by key and model of the tasks created from `begin` up to, not including, `end`.

    With `owner`, only of this application. Erased tasks are included.
    """
    span = (ids.first_at("task", begin), ids.first_at("task", end))
    posted = union_all(_posted(tasks, tasks.c.id, span, owner), _posted(erased, erased.c.task_id, span, owner)).cte()
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


def _posted(table: Table, task_id: Column[str], span: tuple[str, str], owner: str | None) -> Select[Any]:
    """Select the counted columns, of tasks or of erased tasks."""
    query = select(*(table.c[name] for name in _COLUMNS)).where(task_id >= span[0], task_id < span[1])
    return query if owner is None else query.where(applications.of(table) == owner)
