"""Counts of recent tasks and reports for the overview. Each statement reads a bounded number of rows or index entries.

Ids sort by creation time, so a period is a range of ids. Counts that reach their bound are minimums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    CompoundSelect,
    Connection,
    FromClause,
    Integer,
    Select,
    String,
    Subquery,
    bindparam,
    exists,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.types import TypeEngine

from app import ids
from app.db.engine.bulk import BulkRead
from app.db.queries.newest_tasks import newest_of_state
from app.db.tables.attempts import attempts
from app.db.tables.evidence import evidence
from app.db.tables.tasks import APPLICATION, tasks
from app.rules.task import Effect, Failure, Said, Status, Witness

MAX_COUNTED = 500  # tasks of one state in one bar of a chart
MAX_READ = 2000  # rows of one statement that reads rows


class Bar(NamedTuple):
    """The tasks created from `begin` up to the next bar, by state."""

    begin: datetime
    stored: int
    failed: int


@dataclass(frozen=True, slots=True)
class Reports:
    """The latest reports of witnesses. `is_whole`: whether all of the period were read, those of others included."""

    verdicts: dict[str, int]  # of callbacks
    polls: int
    repaired: int  # results that a poll brought although a callback was requested
    is_whole: bool


class Spend(NamedTuple):
    """What the latest tasks cost, in credits."""

    credits: float
    is_whole: bool


def bars(connection: Connection, application_id: str | None, edges: Sequence[datetime]) -> list[Bar]:
    """Return the bars between these instants. Reads only an index, at most `MAX_COUNTED` entries for each number."""
    ends = [ids.first_at("task", edge) for edge in edges]
    statuses = (str(Status.STORED), str(Status.FAILED))
    cells = [
        (number, status, begin, end, application_id or "")
        for number, (begin, end) in enumerate(pairwise(ends))
        for status in statuses
    ]
    found = (_COUNT if application_id is None else _COUNT_OF_APPLICATION).find(connection, cells)
    counts = {(number, status): count for number, status, count in found}
    return [Bar(edge, *(counts[number, status] for status in statuses)) for number, edge in enumerate(edges[:-1])]


def _select_counts(relation: FromClause, _dialect: str, *conditions: ColumnElement[bool]) -> ClauseElement:
    """Count the tasks of each cell by a subquery, which stops at the bound."""
    of_cell = (tasks.c.status == relation.c.status, tasks.c.id >= relation.c.begin, tasks.c.id < relation.c.until)
    # The rows are the only parameters of the statement, so these numbers are literals.
    some = select(tasks.c.id).where(*of_cell, *conditions).limit(_BOUND).offset(literal_column("0"))
    counted = select(func.count()).select_from(some.correlate(relation).subquery()).scalar_subquery()
    return select(relation.c.number, relation.c.status, counted.label("tasks"))


def _select_counts_of_application(relation: FromClause, dialect: str) -> ClauseElement:
    return _select_counts(relation, dialect, relation.c.application_id == APPLICATION)


_BOUND: ColumnElement[int] = literal_column(str(MAX_COUNTED))
_CELL: dict[str, TypeEngine[Any]] = {"number": Integer()}
_CELL |= {name: String() for name in ("status", "begin", "until", "application_id")}
_COUNT = BulkRead(_CELL, _select_counts)
_COUNT_OF_APPLICATION = BulkRead(_CELL, _select_counts_of_application)


def failures(connection: Connection, application_id: str | None, since: datetime) -> dict[Failure, int]:
    """Count the latest failed tasks since an instant by the reason, at most `MAX_READ`."""
    found = connection.execute(_FAILURES[application_id is not None], _latest(application_id, since))
    return {Failure(failure): count for failure, count in found if failure is not None}


def spend(connection: Connection, application_id: str | None, since: datetime) -> Spend:
    """Add up the costs of the latest tasks since an instant, at most `MAX_READ` in each state.

    An index has the tasks in order within each state, so each state is read by itself.
    """
    found = connection.execute(_SPEND[application_id is not None], _latest(application_id, since)).all()
    return Spend(sum(row.credits for row in found), all(row.read < MAX_READ for row in found))


def reports(connection: Connection, application_id: str | None, since: datetime) -> Reports:
    """Return the latest reports since an instant, among the newest `MAX_READ` of all applications."""
    columns = (evidence.c.attempt_id, evidence.c.witness, evidence.c.verdict, evidence.c.said, evidence.c.effect)
    recent = select(*columns).where(evidence.c.id >= ids.first_at("ev", since)).order_by(evidence.c.id.desc())
    latest = recent.limit(MAX_READ).subquery()
    kinds = (*(latest.c[name] for name in ("witness", "verdict", "said", "effect")), attempts.c.callback_requested)
    query = select(*kinds, func.count().label("number")).join_from(
        latest, attempts, attempts.c.id == latest.c.attempt_id
    )
    if application_id is not None:
        # Not a join: grouped, SQLite would begin with all tasks of the application.
        query = query.where(exists().where(tasks.c.id == attempts.c.task_id, *_owned_by(application_id)))
    rows = connection.execute(query.group_by(*kinds)).all()
    read = connection.scalar(select(func.count()).select_from(latest))
    verdicts: dict[str, int] = {}
    for row in rows:
        if row.witness == Witness.CALLBACK:
            verdicts[row.verdict] = verdicts.get(row.verdict, 0) + row.number
    polls = [row for row in rows if row.witness == Witness.POLL]
    brought = [row for row in polls if row.effect == Effect.MOVED and row.said in {Said.READY, Said.FAILED}]
    return Reports(
        verdicts=verdicts,
        polls=sum(row.number for row in polls),
        repaired=sum(row.number for row in brought if row.called_back),
        is_whole=read is not None and read < MAX_READ,
    )


def _select_failures(*, owned: bool) -> Select[Any]:
    latest = _newest(select(tasks.c.id, tasks.c.failure), Status.FAILED, owned=owned)
    return select(latest.c.failure, func.count()).group_by(latest.c.failure)


def _select_spend(*, owned: bool) -> CompoundSelect[Any]:
    latest = [_newest(select(tasks.c.id, tasks.c.cost), status, owned=owned) for status in Status]
    sums = [
        select(func.coalesce(func.sum(rows.c.cost), 0.0).label("credits"), func.count().label("read")).select_from(rows)
        for rows in latest
    ]
    return union_all(*sums)


def _newest(query: Select[Any], status: Status, *, owned: bool) -> Subquery:
    """Select the newest tasks of one state from `first` on, at most `MAX_READ`; with `owned`, of one application."""
    if not owned:
        return newest_of_state(query, status, MAX_READ, since=_FIRST).subquery()
    # PostgreSQL follows the index of the application from the instant on. With a range of states it would expect too
    # few rows, and sort all of the application's tasks in this state: 0.35 s with 100,000 failed ones.
    of_state = query.where(APPLICATION.in_(_APPLICATION_IDS), tasks.c.status == status, tasks.c.id >= _FIRST)
    return of_state.order_by(tasks.c.id.desc()).limit(MAX_READ).subquery()


def _latest(application_id: str | None, since: datetime) -> dict[str, Any]:
    """Return the parameters of a statement about the latest tasks."""
    owner = {} if application_id is None else {"application_ids": [application_id]}
    return {"first": ids.first_at("task", since), **owner}


_FIRST: BindParameter[str] = bindparam("first")
_APPLICATION_IDS: BindParameter[Sequence[str]] = bindparam("application_ids", expanding=True)
# Of all applications, and of one. Constants, because building the second statement takes longer than running it.
_FAILURES = _select_failures(owned=False), _select_failures(owned=True)
_SPEND = _select_spend(owned=False), _select_spend(owned=True)


def _owned_by(application_id: str | None) -> list[ColumnElement[bool]]:
    return [] if application_id is None else [APPLICATION.in_([application_id])]
