"""The table `endpoints`: the webhook URLs of each application, with their state and their failures."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    select,
    update,
)

from app.db.engine.columns import Instant, by_key, insert_into, metadata
from app.db.tables import applications


class EndpointState(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # it failed for three days; only tests are sent
    GONE = "gone"  # it answered 410; only tests are sent


endpoints = Table(
    "endpoints",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("key_id", String(48), nullable=False),  # of its application, see `applications.first_key_id`
    Column("url", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("failures", Integer, nullable=False),  # consecutive failed attempts, tests excluded
    Column("failing_since_at", Instant),
    Column("rests_until_at", Instant, key="backoff_until"),  # no delivery is attempted before
    Column("stopped_at", Instant),  # when it became paused or gone
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("key_id", "url"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: str
    application_id: str
    url: str
    state: EndpointState
    failures: int
    failing_since_at: datetime | None
    backoff_until: datetime | None
    stopped_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    id: str
    application_id: str
    url: str
    created_at: datetime


class EndpointName(NamedTuple):
    """What identifies an endpoint besides its id."""

    application_id: str
    url: str


def ensure(connection: Connection, rows: Iterable[NewEndpoint]) -> None:
    """Insert an endpoint for each application and `url` that has none. Existing endpoints do not change."""
    new_rows = [
        {
            "id": row.id,
            "key_id": applications.first_key_id(row.application_id),
            "url": row.url,
            "state": EndpointState.ACTIVE,
            "failures": 0,
            "created_at": row.created_at,
        }
        for row in sorted(rows, key=lambda row: row.url)
    ]
    statement = insert_into(endpoints, connection.dialect.name).values(new_rows)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["key_id", "url"]))


# Constants, because building a statement takes as long as running it.
_GET = select(endpoints).where(endpoints.c.id == bindparam("endpoint_id"))
_LOCK = _GET.with_for_update(key_share=True)
_NAMED = (
    select(endpoints)
    .where(
        endpoints.c.key_id.in_(bindparam("key_ids", expanding=True)),
        endpoints.c.url.in_(bindparam("urls", expanding=True)),
    )
    .with_for_update(read=True, key_share=True)  # waits for `lock_to_delete` alone
)


def by_name(connection: Connection, names: Collection[EndpointName]) -> dict[EndpointName, Endpoint]:
    """Return the endpoints with these names, by name. They are not deleted until the transaction ends."""
    key_ids = {applications.first_key_id(name.application_id) for name in names}
    parameters = {"key_ids": list(key_ids), "urls": list({name.url for name in names})}
    found = [_endpoint_of(row) for row in connection.execute(_NAMED, parameters)]
    named = {EndpointName(endpoint.application_id, endpoint.url): endpoint for endpoint in found}
    return {name: endpoint for name, endpoint in named.items() if name in names}


def get(connection: Connection, endpoint_id: str) -> Endpoint | None:
    row = connection.execute(_GET, {"endpoint_id": endpoint_id}).one_or_none()
    return None if row is None else _endpoint_of(row)


def newest(
    connection: Connection, *, limit: int, before: str | None, state: EndpointState | None, owner: str | None
) -> list[Endpoint]:
    """Return endpoints, newest first; with `before`, only those created before the endpoint with this id.

    `owner`: only those of this application.
    """
    query = select(endpoints).order_by(endpoints.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(endpoints.c.id < before)
    if state is not None:
        query = query.where(endpoints.c.state == state)
    if owner is not None:
        query = query.where(endpoints.c.key_id == applications.first_key_id(owner))
    return [_endpoint_of(row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """The whole state of an endpoint after a round of deliveries: every member is written. The default is healthy."""

    state: EndpointState = EndpointState.ACTIVE
    stopped_at: datetime | None = None
    failures: int = 0
    failing_since_at: datetime | None = None
    backoff_until: datetime | None = None


_CHANGED = tuple(member.name for member in fields(EndpointChange))
_CHANGE = (
    update(endpoints)
    .where(endpoints.c.id == bindparam("endpoint_id"))
    .values({name: bindparam(f"new_{name}", type_=endpoints.c[name].type) for name in _CHANGED})
)


def change(connection: Connection, endpoint_id: str, values: EndpointChange) -> None:
    """Write the new state of an endpoint."""
    parameters = {f"new_{name}": getattr(values, name) for name in _CHANGED}
    connection.execute(_CHANGE, {"endpoint_id": endpoint_id, **parameters})


def get_many(connection: Connection, endpoint_ids: Collection[str]) -> list[Endpoint]:
    query = select(endpoints).where(endpoints.c.id.in_(endpoint_ids)).order_by(endpoints.c.id)
    return [_endpoint_of(row) for row in connection.execute(query)]


def resume(connection: Connection, endpoint_id: str) -> None:
    """Make an endpoint active and clear its failures."""
    change(connection, endpoint_id, EndpointChange())


def lock(connection: Connection, endpoint_id: str) -> Endpoint | None:
    """Return the endpoint, locked until the transaction ends. Deliveries can be planned for it meanwhile."""
    row = connection.execute(_LOCK, {"endpoint_id": endpoint_id}).one_or_none()
    return None if row is None else _endpoint_of(row)


def lock_to_delete(connection: Connection, endpoint_id: str) -> Endpoint | None:
    """Return the endpoint, locked until the transaction ends, so that no delivery can be planned for it meanwhile."""
    query = select(endpoints).where(endpoints.c.id == endpoint_id).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else _endpoint_of(row)


def remove(connection: Connection, endpoint_id: str) -> None:
    connection.execute(delete(endpoints).where(endpoints.c.id == endpoint_id))


def _endpoint_of(row: Any) -> Endpoint:
    values = by_key(endpoints, row)
    application_id = applications.id_of_key(values.pop("key_id"))
    return Endpoint(**{**values, "application_id": application_id, "state": EndpointState(row.state)})
