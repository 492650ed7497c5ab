"""Lists of tasks, newest first, with filters. The number of rows that one page reads has a bound.

An index finds tasks by application, state, model, end user and metadata. For anything else, tasks are read in the order
of that index and compared, up to `MAX_EXAMINED`; a page that ends there has a cursor, and may be short or empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, select, union_all

from app.db.queries.newest_tasks import newest_of_state
from app.db.tables import applications, task_tags
from app.db.tables.task_tags import task_tags as tags
from app.db.tables.tasks import Task, task_of, tasks
from app.rules.task import Status

MAX_EXAMINED = 10_000
_AT_ONCE = 500  # rows in one statement, so that a search of long prompts takes little memory


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are listed. All conditions hold; the default of each selects every task.

    `since`, `before`: ids of tasks, which sort by the time of creation; `before` is excluded. `metadata`: pairs as
    `key:value`. `prompt_contains`: compared without regard to case.
    """

    application_id: str | None = None
    statuses: tuple[Status, ...] = ()
    model: str | None = None
    user: str | None = None
    metadata: tuple[str, ...] = ()
    prompt_contains: str | None = None
    since: str | None = None
    before: str | None = None

    @property
    def tag(self) -> str | None:
        """The tag whose index rows are followed; None without one."""
        if self.application_id is None:
            return None
        if self.metadata:
            return task_tags.of_pair(self.metadata[0])
        return None if self.user is None else task_tags.of_user(self.user)

    @property
    def is_search(self) -> bool:
        """Whether rows have to be compared that no index selects."""
        return bool(self.user is not None or self.metadata or self.prompt_contains)


@dataclass(frozen=True, slots=True)
class TaskPage:
    tasks: Sequence[Task]
    next_cursor: str | None  # the id to continue before; None on the last page


def page(connection: Connection, task_filter: TaskFilter, limit: int) -> TaskPage:
    """Return up to `limit` tasks, newest first."""
    if task_filter.is_search:
        ids, end = _search(connection, task_filter, limit)
        rows = connection.execute(_newest_first(select(tasks).where(tasks.c.id.in_(ids)))) if ids else ()
        return TaskPage([task_of(row) for row in rows], end)
    found = _newest(connection, task_filter, limit + 1)
    return TaskPage(found[:limit], found[limit - 1].id if len(found) > limit else None)


def _newest(connection: Connection, task_filter: TaskFilter, limit: int) -> list[Task]:
    query = select(tasks)
    if _states(task_filter):
        query = query.where(tasks.c.id.in_(_newest_ids(task_filter, limit)))
    else:
        query = query.where(*_range(tasks.c.id, task_filter))
    return [task_of(row) for row in connection.execute(_newest_first(query).limit(limit))]


def _newest_ids(task_filter: TaskFilter, limit: int) -> Select[Any]:
    """Select the newest ids of the lists that an index has in order: one for each state if states are selected."""
    listed = select(tasks.c.id).where(*_owned(task_filter))
    since, before = task_filter.since, task_filter.before
    lists = [
        newest_of_state(listed, status, limit, since=since, before=before).subquery() for status in _states(task_filter)
    ]
    if not lists:
        return _newest_first(select(tasks.c.id).where(*_range(tasks.c.id, task_filter))).limit(limit)
    merged = union_all(*map(select, lists)).subquery() if len(lists) > 1 else lists[0]
    return select(merged.c.id).order_by(merged.c.id.desc()).limit(limit)


def _owned(task_filter: TaskFilter) -> list[ColumnElement[bool]]:
    """Return the conditions on the first columns of the indexes that have the tasks of each state in order."""
    conditions: list[ColumnElement[bool]] = []
    if task_filter.application_id is not None:
        conditions.append(applications.of(tasks) == task_filter.application_id)
    if task_filter.model is not None:
        conditions.append(tasks.c.model == task_filter.model)
    return conditions


def _states(task_filter: TaskFilter) -> list[Status]:
    """Return the states whose lists are read; none if the tasks of all states are in order in the primary key."""
    is_owned = task_filter.model is not None or task_filter.application_id is not None
    return sorted(set(task_filter.statuses) or (Status if is_owned else ()))


def _range(task_id: ColumnElement[str], task_filter: TaskFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if task_filter.before is not None:
        conditions.append(task_id < task_filter.before)
    if task_filter.since is not None:
        conditions.append(task_id >= task_filter.since)
    return conditions


def _newest_first(query: Select[Any]) -> Select[Any]:
    return query.order_by(tasks.c.id.desc())


def _search(connection: Connection, task_filter: TaskFilter, limit: int) -> tuple[list[str], str | None]:
    """Return the ids of the tasks that fit, and the cursor."""
    found: list[str] = []
    for _ in range(MAX_EXAMINED // _AT_ONCE):
        ids, rows = _examine(connection, task_filter)
        found += (row.id for row in rows if _fits(row, task_filter))
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        if len(ids) < _AT_ONCE:
            return found, None
        task_filter = replace(task_filter, before=ids[-1])
    return found, task_filter.before


def _examine(connection: Connection, task_filter: TaskFilter) -> tuple[Sequence[str], Sequence[Row[Any]]]:
    """Return the next ids in the order of the index, and what is compared of their tasks, newest first."""
    tag = task_filter.tag
    ids = _tagged(connection, task_filter, tag) if tag else _listed(connection, task_filter)
    if not ids:
        return ids, ()
    columns: list[ColumnElement[Any]] = [tasks.c.id, tasks.c.user, tasks.c.metadata]
    if task_filter.prompt_contains:
        columns.append(tasks.c.request["prompt"].as_string().label("prompt"))
    conditions: list[ColumnElement[bool]] = [tasks.c.id.in_(ids)]
    if tag and task_filter.model is not None:
        conditions.append(tasks.c.model == task_filter.model)
    if tag and task_filter.statuses:
        conditions.append(tasks.c.status.in_(task_filter.statuses))
    return ids, connection.execute(_newest_first(select(*columns).where(*conditions))).all()


def _listed(connection: Connection, task_filter: TaskFilter) -> Sequence[str]:
    return list(connection.execute(_newest_ids(task_filter, _AT_ONCE)).scalars())


def _tagged(connection: Connection, task_filter: TaskFilter, tag: str) -> Sequence[str]:
    of_tag = (tags.c.application_id == task_filter.application_id, tags.c.tag == tag)
    query = select(tags.c.task_id).where(*of_tag, *_range(tags.c.task_id, task_filter))
    return connection.execute(query.order_by(tags.c.task_id.desc()).limit(_AT_ONCE)).scalars().all()


def _fits(row: Row[Any], task_filter: TaskFilter) -> bool:
    """Compare what no index selects; here and not in SQL, because databases differ in what case means."""
    if task_filter.user is not None and row.end_user != task_filter.user:
        return False
    pairs = {f"{key}:{value}" for key, value in (row.metadata or {}).items()} if task_filter.metadata else set()
    if not pairs.issuperset(task_filter.metadata):
        return False
    needle = (task_filter.prompt_contains or "").casefold()
    return needle in (row.prompt or "").casefold() if needle else True
