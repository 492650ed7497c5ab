"""The table `deliveries`: one row for each webhook of an endpoint, with its state."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
    update,
)

from app.db.engine.columns import Instant, Json, metadata
from app.db.tables import applications
from app.db.tables.endpoints import endpoints


class DeliveryState(StrEnum):
    WAITING = "waiting"  # for its first or next attempt
    DELIVERED = "delivered"
    FAILED = "failed"  # no further attempt unless it is replayed


TEST = "test"  # the event of a test delivery, which has no task

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("endpoint_id", String(48), nullable=False),
    Column("task_id", String(48)),
    Column("event", String(16), nullable=False),
    Column("form", String(16), nullable=False),
    Column("payload", Json, nullable=False),  # as of the event; image links are added when it is sent
    Column("secret", Text),  # sealed; only without a task, other deliveries use the secret of theirs
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),  # since it was planned or last replayed
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
# A literal, because the planner does not match a bound parameter with the condition of a partial index.
_IS_TEST = deliveries.c.event == literal_column(f"'{TEST}'")
# Each round of an endpoint in backoff looks for tests, among any number of other waiting deliveries.
Index(
    "ix_deliveries_tests",
    *(deliveries.c.endpoint_id, deliveries.c.state, deliveries.c.due_at),
    sqlite_where=_IS_TEST,
    postgresql_where=_IS_TEST,
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row with the application and the URL of its endpoint."""

    id: str
    endpoint_id: str
    task_id: str | None
    event: str
    form: str
    payload: Mapping[str, object]
    secret: str | None
    state: DeliveryState
    tries: int
    detail: str | None
    planned_at: datetime
    due_at: datetime
    ended_at: datetime | None
    application_id: str
    url: str


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to be inserted. `payload`: a JSON object; the table does not know its members."""

    id: str
    endpoint_id: str
    task_id: str | None
    event: str
    form: str
    payload: Mapping[str, object]
    planned_at: datetime
    due_at: datetime
    secret: str | None = field(default=None, repr=False)
    state: DeliveryState = DeliveryState.WAITING
    detail: str | None = None
    ended_at: datetime | None = None


# Constants, because building a statement takes as long as running it.
_INSERT = deliveries.insert()
_OF_ENDPOINT_WAITING = (
    deliveries.c.endpoint_id == bindparam("endpoint_id"),
    deliveries.c.state == DeliveryState.WAITING,
)
OF_ENDPOINT = endpoints.c.id == deliveries.c.endpoint_id
_SELECT = select(deliveries, endpoints.c.key_id, endpoints.c.url).join(endpoints, OF_ENDPOINT)
_DUE = (
    _SELECT.where(*_OF_ENDPOINT_WAITING, deliveries.c.due_at <= bindparam("now"))
    .order_by(deliveries.c.due_at, deliveries.c.id)
    .limit(bindparam("limit"))
)
_DUE_TESTS = _DUE.where(_IS_TEST)
_NEXT_DUE = select(deliveries.c.due_at).where(*_OF_ENDPOINT_WAITING).order_by(deliveries.c.due_at).limit(1)
_NEXT_DUE_TEST = _NEXT_DUE.where(_IS_TEST)


def insert(connection: Connection, rows: Sequence[NewDelivery]) -> None:
    connection.execute(_INSERT, [{"tries": 0, **asdict(row)} for row in rows])


def get(connection: Connection, delivery_id: str) -> Delivery | None:
    row = connection.execute(select_deliveries().where(deliveries.c.id == delivery_id)).one_or_none()
    return None if row is None else delivery_of(row)


def due(connection: Connection, endpoint_id: str, now: datetime, limit: int, *, tests: bool = False) -> list[Delivery]:
    """Return the due deliveries of an endpoint, earliest due first; with `tests`, only tests."""
    parameters = {"endpoint_id": endpoint_id, "now": now, "limit": limit}
    return [delivery_of(row) for row in connection.execute(_DUE_TESTS if tests else _DUE, parameters)]


def next_due(connection: Connection, endpoint_id: str, *, tests: bool = False) -> datetime | None:
    """Return when the next waiting delivery of an endpoint is due; with `tests`, the next test. None if none waits."""
    query = _NEXT_DUE_TEST if tests else _NEXT_DUE
    due_at: datetime | None = connection.execute(query, {"endpoint_id": endpoint_id}).scalar_one_or_none()
    return due_at


@dataclass(frozen=True, slots=True)
class DeliveryChange:
    """The outcome of one attempt. `was_tries` and `was_due_at` are the values from before it."""

    id: str
    was_tries: int
    was_due_at: datetime
    state: DeliveryState
    tries: int
    detail: str | None
    due_at: datetime
    ended_at: datetime | None


_CHANGED_NAMES = ("state", "tries", "detail", "due_at", "ended_at")
_CHANGED = {
    "of_id": "id",
    "was_tries": "was_tries",
    "was_due_at": "was_due_at",
    **{f"new_{name}": name for name in _CHANGED_NAMES},
}
_CHANGE = (
    update(deliveries)
    .where(
        deliveries.c.id == bindparam("of_id"),
        deliveries.c.state == DeliveryState.WAITING,
        deliveries.c.tries == bindparam("was_tries"),
        deliveries.c.due_at == bindparam("was_due_at"),
    )
    .values({name: bindparam(f"new_{name}", type_=deliveries.c[name].type) for name in _CHANGED_NAMES})
)


def apply_changes(connection: Connection, changes: Sequence[DeliveryChange]) -> None:
    """Write the outcome of attempts. A delivery that was replayed during its attempt does not change."""
    rows = [{parameter: getattr(change, name) for parameter, name in _CHANGED.items()} for change in changes]
    connection.execute(_CHANGE, rows)


def end_waiting(connection: Connection, endpoint_id: str, detail: str, now: datetime) -> None:
    """Mark all waiting deliveries of an endpoint as failed."""
    waiting = (deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == DeliveryState.WAITING)
    connection.execute(
        update(deliveries).where(*waiting).values(state=DeliveryState.FAILED, detail=detail, ended_at=now)
    )


def restart(connection: Connection, delivery_ids: Collection[str], now: datetime) -> None:
    """Make these deliveries wait again, due at once, at the start of their retry schedule."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(delivery_ids))
        .values(state=DeliveryState.WAITING, tries=0, detail=None, due_at=now, ended_at=None)
    )


def endpoints_with_waiting(connection: Connection) -> set[str]:
    """Return the ids of active endpoints with waiting deliveries. Rows of paused endpoints are not read."""
    waits = exists().where(OF_ENDPOINT, deliveries.c.state == DeliveryState.WAITING)
    query = select(endpoints.c.id).where(endpoints.c.state == "active", waits)
    return set(connection.execute(query).scalars())


def select_deliveries() -> Select[Any]:
    return _SELECT


def delivery_of(row: Row[Any]) -> Delivery:
    values = row._asdict()
    application_id = applications.id_of_key(values.pop("key_id"))
    return Delivery(**{**values, "application_id": application_id, "state": DeliveryState(row.state)})
