"""The newest tasks of one state, in the order of an index."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, Integer, Select, bindparam, select, tuple_

from app import ids
from app.db.tables.tasks import tasks
from app.rules.task import Status

_AFTER_ALL = ids.first_at("task", datetime.max.replace(tzinfo=UTC))


def newest_of_state(
    query: Select[Any],
    status: Status,
    limit: int | BindParameter[int],
    *,
    since: str | BindParameter[str] | None = None,
    before: str | None = None,
) -> Select[Any]:
    """Select, of those that a SELECT finds, the newest tasks of one state, with ids from `since` up to `before`.

    `query` has the column `id`. The rows come from an index that begins with the columns of its conditions. For that,
    state and id are compared as a pair: with two conditions PostgreSQL may follow the primary key instead, past any
    number of tasks in other states, because it expects to find enough soon. Behind 100,000 queued tasks that took
    40 ms. `since` is compared after the limit, because the second part of a pair does not end the scan of an index.
    """
    end = tuple_(status, _AFTER_ALL if before is None else before)
    in_order = query.where(tasks.c.status >= status, tuple_(tasks.c.status, tasks.c.id) < end).order_by(
        tasks.c.status.desc(), tasks.c.id.desc()
    )
    newest = in_order.limit(limit).subquery()
    return select(newest) if since is None else select(newest).where(newest.c.id >= since)


_DURATIONS = select(tasks.c.id, tasks.c.submitted_at, tasks.c.ready_at).where(
    tasks.c.model == bindparam("model"), tasks.c.submitted_at.is_not(None)
)
_LATEST_DURATIONS = newest_of_state(_DURATIONS, Status.STORED, bindparam("limit", type_=Integer))


def latest_durations(connection: Connection, model: str, limit: int) -> list[timedelta]:
    """Return the provider's processing times of a model's latest stored tasks, `limit` at most."""
    rows = connection.execute(_LATEST_DURATIONS, {"model": model, "limit": limit})
    return [row.ready_at - row.submitted_at for row in rows]
