"""The table `deliveries`: what an application is to be told of, once for each thing, and how far that has come."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Index,
    Integer,
    Row,
    Select,
    String,
    Table,
    Text,
    bindparam,
    exists,
    literal_column,
    select,
    union_all,
    update,
)

from app.db.engine.columns import Instant, Json, metadata
from app.db.tables.endpoints import endpoints


class State(StrEnum):
    WAITING = "waiting"  # for its next try
    DELIVERED = "delivered"
    FAILED = "failed"  # given up


_FEW = 30  # endpoints, each of which is looked at by itself
TEST = "test"  # an event that is about no task

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("endpoint_id", String(48), nullable=False),
    Column("task_id", String(48)),
    Column("event", String(16), nullable=False),
    Column("form", String(16), nullable=False),
    Column("payload", Json, nullable=False),  # as it was when the event happened; links are made when it is sent
    Column("secret", Text),  # sealed; for a test alone, others have their task's
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),  # since it was planned, or last replayed
    Column("detail", Text),
    Column("planned_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("ended_at", Instant),
)
Index("ix_deliveries_endpoint_id_state_due_at", deliveries.c.endpoint_id, deliveries.c.state, deliveries.c.due_at)
Index("ix_deliveries_endpoint_id_state_id", deliveries.c.endpoint_id, deliveries.c.state, deliveries.c.id)
Index("ix_deliveries_state_id", deliveries.c.state, deliveries.c.id)
Index("ix_deliveries_task_id", deliveries.c.task_id)
Index("ix_deliveries_state_ended_at", deliveries.c.state, deliveries.c.ended_at)
# Written out, because a partial index is not found by a parameter.
_IS_TEST = deliveries.c.event == literal_column(f"'{TEST}'")
# Looked for in each round of an endpoint that rests, where any number of others may wait.
Index(
    "ix_deliveries_tests",
    *(deliveries.c.endpoint_id, deliveries.c.state, deliveries.c.due_at),
    sqlite_where=_IS_TEST,
    postgresql_where=_IS_TEST,
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row, and of its endpoint the address and whose it is."""

    id: str
    endpoint_id: str
    task_id: str | None
    event: str
    form: str
    payload: Mapping[str, Any]
    secret: str | None
    state: State
    tries: int
    detail: str | None
    planned_at: datetime
    due_at: datetime
    ended_at: datetime | None
    key_id: str
    url: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deliveries are looked for; None means any."""

    key_id: str | None = None
    state: State | None = None
    task_id: str | None = None
    endpoint_id: str | None = None


def insert(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    connection.execute(deliveries.insert(), [{"state": State.WAITING, "tries": 0, **row} for row in rows])


def get(connection: Connection, delivery_id: str) -> Delivery | None:
    row = connection.execute(_rows().where(deliveries.c.id == delivery_id)).one_or_none()
    return None if row is None else _delivery_of(row)


def newest(connection: Connection, wanted: Wanted, *, limit: int, before: str | None = None) -> list[Delivery]:
    """Deliveries, newest first, those planned before the delivery `before` alone."""
    query = _only(_rows(), wanted).order_by(deliveries.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    if wanted.task_id is None and (of := _endpoints_of(connection, wanted)):
        query = query.where(deliveries.c.id.in_(_newest_at(of, wanted.state, limit, before)))
    return [_delivery_of(row) for row in connection.execute(query)]


def _endpoints_of(connection: Connection, wanted: Wanted) -> list[str]:
    """The endpoints that these deliveries go to; none where that says little: all, or those of a key with very many."""
    if wanted.endpoint_id is not None:
        return [wanted.endpoint_id]
    if wanted.key_id is None:
        return []
    query = select(endpoints.c.id).where(endpoints.c.key_id == wanted.key_id).limit(_FEW + 1)
    found = list(connection.execute(query).scalars())
    return found if len(found) <= _FEW else []


def _newest_at(endpoint_ids: Collection[str], state: State | None, limit: int, before: str | None) -> Select[Any]:
    """The ids of the newest deliveries to these: an index has them in order for each endpoint and state."""
    beginning = [deliveries.c.id < before] if before is not None else []
    places = [(at, each) for at in endpoint_ids for each in ([state] if state else State)]
    found = [
        select(deliveries.c.id)
        .where(deliveries.c.endpoint_id == at, deliveries.c.state == each, *beginning)
        .order_by(deliveries.c.id.desc())
        .limit(limit)
        .subquery()
        for at, each in places
    ]
    every = union_all(*(select(each.c.id) for each in found)).subquery()
    return select(every.c.id).order_by(every.c.id.desc()).limit(limit)


def due(connection: Connection, endpoint_id: str, now: datetime, limit: int, *, tests: bool = False) -> list[Delivery]:
    """What waits for an endpoint and is due, the longest first; only its tests, if asked so."""
    query = _rows().where(
        deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == State.WAITING, deliveries.c.due_at <= now
    )
    if tests:
        query = query.where(_IS_TEST)
    rows = connection.execute(query.order_by(deliveries.c.due_at, deliveries.c.id).limit(limit))
    return [_delivery_of(row) for row in rows]


def next_due(connection: Connection, endpoint_id: str, *, tests: bool = False) -> datetime | None:
    """When the earliest delivery, or test, that waits for an endpoint is due."""
    query = (
        select(deliveries.c.due_at)
        .where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == State.WAITING)
        .order_by(deliveries.c.due_at)
        .limit(1)
    )
    if tests:
        query = query.where(_IS_TEST)
    found: datetime | None = connection.execute(query).scalar_one_or_none()
    return found


def conclude(connection: Connection, changes: Sequence[Mapping[str, Any]]) -> None:
    """Write how tries ended: `id`, `state`, `tries`, `detail`, `due_at` and `ended_at` of each.

    `was_tries` and `was_due_at` say how each stood when its try began: one that was replayed meanwhile stays replayed.
    """
    names = ("state", "tries", "detail", "due_at", "ended_at")
    values = {name: bindparam(f"new_{name}", type_=deliveries.c[name].type) for name in names}
    as_it_was = (
        deliveries.c.id == bindparam("of_id"),
        deliveries.c.state == State.WAITING,
        deliveries.c.tries == bindparam("was_tries"),
        deliveries.c.due_at == bindparam("was_due_at"),
    )
    given = {
        "of_id": "id",
        "was_tries": "was_tries",
        "was_due_at": "was_due_at",
        **{f"new_{name}": name for name in names},
    }
    rows = [{parameter: each[name] for parameter, name in given.items()} for each in changes]
    connection.execute(update(deliveries).where(*as_it_was).values(values), rows)


def end_waiting(connection: Connection, endpoint_id: str, detail: str, now: datetime) -> None:
    """Give up all that waits for an endpoint."""
    waiting = (deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == State.WAITING)
    connection.execute(update(deliveries).where(*waiting).values(state=State.FAILED, detail=detail, ended_at=now))


def restart(connection: Connection, delivery_ids: Collection[str], now: datetime) -> None:
    """Have these tried again from the start of their schedule."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(delivery_ids))
        .values(state=State.WAITING, tries=0, detail=None, due_at=now, ended_at=None)
    )


def failed_between(
    connection: Connection, begin: datetime, end: datetime, wanted: Wanted, limit: int
) -> list[tuple[str, str]]:
    """Ids, and those of their endpoints, of deliveries that were given up in this time; the earliest first."""
    query = (
        _only(select(deliveries.c.id, deliveries.c.endpoint_id).join(endpoints, _BELONGS), wanted)
        .where(deliveries.c.state == State.FAILED, deliveries.c.ended_at >= begin, deliveries.c.ended_at < end)
        .order_by(deliveries.c.ended_at, deliveries.c.id)
        .limit(limit)
    )
    return [(row.id, row.endpoint_id) for row in connection.execute(query)]


def awaited(connection: Connection) -> set[str]:
    """The active endpoints for which something waits. What waits for a paused one, however much, is not read."""
    waits = exists().where(_BELONGS, deliveries.c.state == State.WAITING)
    query = select(endpoints.c.id).where(endpoints.c.state == "active", waits)
    return set(connection.execute(query).scalars())


_BELONGS = endpoints.c.id == deliveries.c.endpoint_id


def _rows() -> Select[Any]:
    return select(deliveries, endpoints.c.key_id, endpoints.c.url).join(endpoints, _BELONGS)


def _only(query: Select[Any], wanted: Wanted) -> Select[Any]:
    asked = {
        endpoints.c.key_id: wanted.key_id,
        deliveries.c.state: wanted.state,
        deliveries.c.task_id: wanted.task_id,
        deliveries.c.endpoint_id: wanted.endpoint_id,
    }
    return query.where(*(column == value for column, value in asked.items() if value is not None))


def _delivery_of(row: Row[Any]) -> Delivery:
    return Delivery(**{**row._asdict(), "state": State(row.state)})
