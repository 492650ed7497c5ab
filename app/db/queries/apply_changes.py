"""What evidence changes of tasks, for a whole group in one statement."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, Connection, FromClause, case, func, literal_column, update

from app.db.engine.bulk import Bulk
from app.db.tables.tasks import IS_FINAL, tasks

# What evidence may change; a column that a change leaves out, or gives as None, stays as it is.
_LEARNED = (
    "status",
    "failure",
    "failure_detail",
    "money_spent",
    "seed",
    "sample_url",
    "sample_expires_at",
    "submitted_at",
    "ready_at",
    "failed_at",
    "dispatch_after_at",
    "tries",
    "cost",
)
_ADDED = frozenset({"tries", "cost"})  # to what is there


def learn(connection: Connection, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Write what evidence changed, by task id. `cost` and `tries` are added to what is there.

    The tasks must be locked by this transaction. A final one keeps its state all the same; what it cost may
    still come to light.
    """
    names = tuple(name for name in _LEARNED if any(name in change for change in changes.values()))
    rows = [(task_id, *map(change.get, names)) for task_id, change in changes.items()]
    _learning(names).write(connection, rows)


@cache
def _learning(names: tuple[str, ...]) -> Bulk:
    """The statement that changes these columns: a narrow one, because most groups say the same few things."""

    def build(given: FromClause, _dialect: str) -> ClauseElement:
        values = {name: _changed(name, given) for name in names}
        which = [tasks.c.id == given.c.id]
        if "status" in names:
            which.append(given.c.status.is_(None) | ~IS_FINAL)
        return update(tasks).where(*which).values(values)

    return Bulk({name: tasks.c[name].type for name in ("id", *names)}, build)


def _changed(name: str, given: FromClause) -> ColumnElement[Any]:
    if name in _ADDED:
        added = func.coalesce(tasks.c[name], literal_column("0")) + given.c[name]
        return case((given.c[name].is_(None), tasks.c[name]), else_=added)
    return func.coalesce(given.c[name], tasks.c[name])
