"""The table `removals`: the stored files whose retention has ended, until the store has deleted them."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Column, Connection, Table, Text, delete, select

from app.db.engine.columns import Instant, insert_into, metadata

removals = Table(
    "removals",
    metadata,
    Column("store_key", Text, primary_key=True),
    Column("requested_at", Instant, nullable=False),
)


def put(connection: Connection, store_keys: Collection[str], now: datetime) -> None:
    """Request that these files are deleted; at least one."""
    rows = [{"store_key": key, "requested_at": now} for key in dict.fromkeys(store_keys)]
    connection.execute(insert_into(removals, connection.dialect.name).on_conflict_do_nothing(), rows)


def first(connection: Connection, limit: int) -> list[str]:
    """Return the store keys of files to delete, `limit` at most."""
    return list(connection.execute(select(removals.c.store_key).order_by(removals.c.store_key).limit(limit)).scalars())


def remove(connection: Connection, store_keys: Collection[str]) -> None:
    """Record that the store has deleted these files."""
    connection.execute(delete(removals).where(removals.c.store_key.in_(store_keys)))
