"""The table `keys`: who may ask, by the SHA-256 of the key; the key itself is nowhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, String, Table, Text, select
from sqlalchemy.dialects import postgresql, sqlite

from app.record.columns import Instant, Json, metadata

keys = Table(
    "keys",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("name", Text, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("disabled_at", Instant),
)


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    name: str
    sha256: str
    scopes: Sequence[str]
    created_at: datetime
    disabled_at: datetime | None


def put(connection: Connection, **values: Any) -> None:
    """Write a key, in place of one with the same id."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    anew = {"disabled_at": None, **values}
    # In one statement: replicas that start at once all put the operator's key.
    statement = dialect.insert(keys).values(anew)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=anew))


def by_digest(connection: Connection, sha256: str) -> Key | None:
    row = connection.execute(select(keys).where(keys.c.sha256 == sha256)).one_or_none()
    return None if row is None else Key(**row._asdict())


def get(connection: Connection, key_id: str) -> Key | None:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).one_or_none()
    return None if row is None else Key(**row._asdict())
