"""The table `undelivered_requests`: requests that made tasks, until their answer has been delivered.

A row is written with the tasks and deleted once the client has the answer. While `process_id` answers a request,
`answer_due_at` says until when; it is NULL once it is known that the client did not get the answer.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Index,
    String,
    Table,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)

from app.db.engine.columns import Instant, Json, metadata

undelivered_requests = Table(
    "undelivered_requests",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("application_id", String(48), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("task_ids", Json, nullable=False),
    Column("process_id", String(48), nullable=False),
    Column("answer_due_at", Instant),
    Column("tried_at", Instant, nullable=False),  # when the client last asked
)
Index(None, undelivered_requests.c.application_id, undelivered_requests.c.digest)

_rows = undelivered_requests.c


@dataclass(frozen=True, slots=True)
class UndeliveredRequest:
    id: str
    application_id: str
    digest: str
    task_ids: Sequence[str]
    process_id: str
    answer_due_at: datetime | None
    tried_at: datetime


_COLUMNS = [column.name for column in undelivered_requests.columns]


def _same(since: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
    """Select the rows of identical requests that were made after `since`."""
    return (
        _rows.application_id == bindparam("application_id", type_=String),
        _rows.digest == bindparam("digest", type_=String),
        _rows.tried_at > since,
    )


# A request that this process is answering is no reason to look further: the process knows its own clients.
_MAY_BE_JOINED = or_(
    _rows.answer_due_at.is_(None),
    _rows.answer_due_at <= bindparam("tried_at", type_=Instant),
    _rows.process_id != bindparam("process_id"),
)
_values = [bindparam(column.name, type_=column.type) for column in undelivered_requests.columns]
_RECORD_UNLESS = insert(undelivered_requests).from_select(
    _COLUMNS,
    select(*_values).where(~select(_rows.id).where(*_same(bindparam("since", type_=Instant)), _MAY_BE_JOINED).exists()),
)
_RECORD = insert(undelivered_requests)


def record(connection: Connection, request: UndeliveredRequest, since: datetime | None) -> bool:
    """Record a request that is being answered. Return False if it may have to join an identical one after `since`.

    `since` None: record it in any case.
    """
    values = {name: getattr(request, name) for name in _COLUMNS}
    values["task_ids"] = list(request.task_ids)
    if since is None:
        connection.execute(_RECORD, values)
        return True
    return connection.execute(_RECORD_UNLESS, {**values, "since": since}).rowcount == 1


def identical(connection: Connection, application_id: str, digest: str, since: datetime) -> list[UndeliveredRequest]:
    """Return the identical requests after `since`, oldest first."""
    query = select(undelivered_requests).where(*_same(bindparam("since", type_=Instant))).order_by(_rows.id)
    rows = connection.execute(query, {"application_id": application_id, "digest": digest, "since": since})
    return [UndeliveredRequest(**row._asdict()) for row in rows]


def take_over(connection: Connection, request: UndeliveredRequest, new_id: str, due_at: datetime) -> bool:
    """Let `request.process_id` answer the row under a new id. Return False if another request was faster."""
    changed = connection.execute(
        update(undelivered_requests)
        .where(_rows.id == request.id)
        .values(id=new_id, process_id=request.process_id, answer_due_at=due_at, tried_at=request.tried_at)
    )
    return changed.rowcount == 1


def reopen(connection: Connection, request_id: str, now: datetime) -> None:
    """Record that the client did not get the answer."""
    connection.execute(
        update(undelivered_requests).where(_rows.id == request_id).values(answer_due_at=None, tried_at=now)
    )


def remove(connection: Connection, request_ids: Collection[str]) -> None:
    connection.execute(delete(undelivered_requests).where(_rows.id.in_(request_ids)))


def prune(connection: Connection, instant: datetime) -> int:
    """Delete the rows of requests that were last made, and should have been answered, before `instant`."""
    is_over = or_(_rows.answer_due_at.is_(None), _rows.answer_due_at < instant)
    return connection.execute(delete(undelivered_requests).where(_rows.tried_at < instant, is_over)).rowcount
