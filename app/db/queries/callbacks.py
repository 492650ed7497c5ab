"""The callbacks among the evidence: pages for users who inspect them, and whether any arrive.

Ids sort by creation time.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, exists, func, select, union_all

from app.db.tables.attempts import attempts
from app.db.tables.evidence import (
    COLUMNS_WITHOUT_CONTENT,
    IS_CALLBACK,
    IS_NOT_SIGNED,
    EvidenceRow,
    evidence,
    evidence_row,
)
from app.db.tables.tasks import APPLICATION, tasks
from app.rules.task import Status, Witness
from app.security.verify import Verdict

MAX_SCANNED = 10_000  # the default maximum of rows that one page examines


@dataclass(frozen=True, slots=True)
class CallbackFilter:
    """Conditions for callbacks; None matches any."""

    task_id: str | None = None
    owner: str | None = None  # an application
    verdict: Verdict | None = None


class CallbackPage(NamedTuple):
    found: list[EvidenceRow]
    next_cursor: str | None  # `before` of the next page; None if this page is the last


def newest(
    connection: Connection,
    callback_filter: CallbackFilter,
    *,
    limit: int,
    before: str | None = None,
    max_rows: int = MAX_SCANNED,
) -> CallbackPage:
    """Return callbacks, newest first; with `before`, only those stored before the callback with this id.

    If no index has the matching rows in order, only the newest `max_rows` rows are examined, so a page may be short or
    empty and still continue. Otherwise an installation that only polls would read the whole table for nothing.
    """
    query, floor = select(*COLUMNS_WITHOUT_CONTENT).order_by(evidence.c.id.desc()).limit(limit + 1), None
    if callback_filter.task_id is not None or callback_filter.owner is not None:
        query = query.join(attempts, attempts.c.id == evidence.c.attempt_id)
    if callback_filter.owner is not None:
        query = query.join(tasks, tasks.c.id == attempts.c.task_id).where(_belongs_to(callback_filter.owner))
    if callback_filter.task_id is not None:
        query = query.where(attempts.c.task_id == callback_filter.task_id, IS_CALLBACK)
    elif callback_filter.owner is None and callback_filter.verdict not in {None, Verdict.SIGNED}:
        query = query.where(IS_NOT_SIGNED)
    else:
        floor = _floor(connection, before, max_rows)
        query = query.where(IS_CALLBACK, evidence.c.id >= (floor or ""))
    if callback_filter.verdict is not None:
        query = query.where(evidence.c.verdict == callback_filter.verdict)
    if before is not None:
        query = query.where(evidence.c.id < before)
    rows = [evidence_row(row) for row in connection.execute(query)]
    return CallbackPage(rows[:limit], rows[limit - 1].id if len(rows) > limit else floor)


def _belongs_to(owner: str) -> ColumnElement[bool]:
    """The condition for tasks of this application. It matches no index: a page follows the evidence, not the tasks."""
    return func.trim(APPLICATION) == owner


def _floor(connection: Connection, before: str | None, max_rows: int) -> str | None:
    """Return the lowest id among the newest `max_rows` rows; None if there are fewer. Reads only the primary key."""
    query = select(evidence.c.id).order_by(evidence.c.id.desc()).offset(max_rows - 1).limit(1)
    if before is not None:
        query = query.where(evidence.c.id < before)
    lowest_id: str | None = connection.execute(query).scalar_one_or_none()
    return lowest_id


def arrived_recently(connection: Connection, limit: int) -> list[bool]:
    """For each of the latest successful tasks with a callback address, newest first: did any callback arrive?

    A callback counts whether it is proven or not. Tasks whose evidence was deleted are left out, because it is unknown.
    """
    has_evidence = exists().where(evidence.c.attempt_id == attempts.c.id)
    latest = union_all(*(_latest(status, limit) for status in (Status.READY, Status.STORED))).subquery()
    query = (
        select(has_evidence.where(evidence.c.witness == Witness.CALLBACK))
        .join(latest, latest.c.attempt_id == attempts.c.id)
        .where(attempts.c.callback_requested, has_evidence)
        .order_by(latest.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _latest(status: Status, limit: int) -> Select[Any]:
    """Select the newest tasks in one state: an index has them in this order, so no other rows are read."""
    query = select(tasks.c.id, tasks.c.attempt_id).where(tasks.c.status == status)
    return select(query.order_by(tasks.c.id.desc()).limit(limit).subquery())
