"""The table `endpoints`: each address that an API key has had tasks told to, and how it fares."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Connection, Integer, String, Table, Text, UniqueConstraint, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.db.engine.columns import Instant, by_key, metadata


class State(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"  # it kept failing: nothing is sent until somebody resumes it
    GONE = "gone"  # it answered 410: it wants nothing any more


endpoints = Table(
    "endpoints",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("key_id", String(48), nullable=False),
    Column("url", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("failures", Integer, nullable=False),  # attempts that failed since the last that did not, without tests
    Column("failing_since_at", Instant),
    Column("rests_until_at", Instant, key="backoff_until"),  # after a failure, before any delivery is tried again
    Column("stopped_at", Instant),  # since when it is paused or gone
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("key_id", "url"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: str
    key_id: str
    url: str
    state: State
    failures: int
    failing_since_at: datetime | None
    backoff_until: datetime | None
    stopped_at: datetime | None
    created_at: datetime


def ensure(connection: Connection, wanted: Sequence[dict[str, Any]]) -> None:
    """Have an endpoint for each `key_id` and `url` of these; `id` and `created_at` count for those that are new."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    rows = [{"state": State.ACTIVE, "failures": 0, **row} for row in sorted(wanted, key=lambda row: row["url"])]
    statement = dialect.insert(endpoints).values(rows)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["key_id", "url"]))


def named(connection: Connection, places: Collection[tuple[str, str]]) -> dict[tuple[str, str], Endpoint]:
    """The endpoints with these keys and addresses, by both."""
    key_ids, urls = {key_id for key_id, _ in places}, {url for _, url in places}
    query = select(endpoints).where(endpoints.c.key_id.in_(key_ids), endpoints.c.url.in_(urls))
    found = {(row.key_id, row.url): _endpoint_of(row) for row in connection.execute(query)}
    return {place: endpoint for place, endpoint in found.items() if place in places}


def get(connection: Connection, endpoint_id: str) -> Endpoint | None:
    row = connection.execute(select(endpoints).where(endpoints.c.id == endpoint_id)).one_or_none()
    return None if row is None else _endpoint_of(row)


def newest(
    connection: Connection, *, limit: int, before: str | None, state: State | None, key_id: str | None
) -> list[Endpoint]:
    """Endpoints, newest first, those created before the endpoint `before` alone."""
    query = select(endpoints).order_by(endpoints.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(endpoints.c.id < before)
    if state is not None:
        query = query.where(endpoints.c.state == state)
    if key_id is not None:
        query = query.where(endpoints.c.key_id == key_id)
    return [_endpoint_of(row) for row in connection.execute(query)]


def change(connection: Connection, endpoint_id: str, **values: Any) -> None:
    connection.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(values))


def these(connection: Connection, endpoint_ids: Collection[str]) -> list[Endpoint]:
    query = select(endpoints).where(endpoints.c.id.in_(endpoint_ids)).order_by(endpoints.c.id)
    return [_endpoint_of(row) for row in connection.execute(query)]


def resume(connection: Connection, endpoint_id: str) -> None:
    """Have an endpoint as if it had never failed."""
    well = {"failures": 0, "failing_since_at": None, "backoff_until": None, "stopped_at": None}
    change(connection, endpoint_id, state=State.ACTIVE, **well)


def lock(connection: Connection, endpoint_id: str) -> Endpoint | None:
    """The endpoint, which nobody else changes until the transaction ends."""
    row = connection.execute(select(endpoints).where(endpoints.c.id == endpoint_id).with_for_update()).one_or_none()
    return None if row is None else _endpoint_of(row)


def _endpoint_of(row: Any) -> Endpoint:
    return Endpoint(**{**by_key(endpoints, row), "state": State(row.state)})
