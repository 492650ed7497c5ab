"""What evidence changes about tasks, and the one statement that writes it for a whole batch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ClauseElement, ColumnElement, FromClause, case, func, literal_column, update

from app.db.engine.bulk import Bulk, DeferredWrites
from app.db.tables.tasks import IS_FINAL, tasks
from app.rules.task import Failure, MoneySpent, Status


@dataclass(frozen=True, slots=True)
class TaskChange:
    """A change to one task. None leaves a column as it is; `tries` and `cost` are added to what the task has.

    `cost` is negative if the provider settles for less than it stated before.
    """

    status: Status | None = None
    failure: Failure | None = None
    failure_detail: str | None = None
    money_spent: MoneySpent | None = None
    seed: str | None = None
    sample_url: str | None = None
    sample_expires_at: datetime | None = None
    submitted_at: datetime | None = None
    ready_at: datetime | None = None
    failed_at: datetime | None = None
    dispatch_after_at: datetime | None = None
    tries: int | None = None
    cost: float | None = None

    def followed_by(self, later: "TaskChange") -> "TaskChange":
        """Return one change that does what this one and then `later` would do."""
        values = {name: value for name in _COLUMNS if (value := getattr(later, name)) is not None}
        for name in _ADDED:
            if name in values:
                values[name] += getattr(self, name) or 0
        return replace(self, **values)


_COLUMNS = tuple(field.name for field in fields(TaskChange))
_ADDED = frozenset({"tries", "cost"})


def apply_changes(writes: DeferredWrites, changes: Mapping[str, TaskChange]) -> None:
    """Write changes by task id. The caller must hold the tasks' locks.

    A final task keeps its state; its cost may still be added.
    """
    names = tuple(name for name in _COLUMNS if any(getattr(change, name) is not None for change in changes.values()))
    rows = [(task_id, *(getattr(change, name) for name in names)) for task_id, change in changes.items()]
    if names:
        writes.add(_statement(names), rows)


@cache
def _statement(names: tuple[str, ...]) -> Bulk:
    """The statement that changes these columns only: most batches change the same few."""

    def build(relation: FromClause, _dialect: str) -> ClauseElement:
        values = {name: _changed(name, relation) for name in names}
        conditions = [tasks.c.id == relation.c.id]
        if "status" in names:
            conditions.append(relation.c.status.is_(None) | ~IS_FINAL)
        return update(tasks).where(*conditions).values(values)

    return Bulk({name: tasks.c[name].type for name in ("id", *names)}, build)


def _changed(name: str, relation: FromClause) -> ColumnElement[Any]:
    if name in _ADDED:
        added = func.coalesce(tasks.c[name], literal_column("0")) + relation.c[name]
        return case((relation.c[name].is_(None), tasks.c[name]), else_=added)
    return func.coalesce(relation.c[name], tasks.c[name])
