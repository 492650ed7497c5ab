"""The table `unrecorded_images`: the input images of requests whose task is not recorded yet.

A row is written before its image is stored, and deleted by the transaction that records the task: a row that stays
names an image without a task.
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Column, Connection, Table, Text, delete, insert, select

from app.db.engine.columns import Instant, metadata

unrecorded_images = Table(
    "unrecorded_images",
    metadata,
    Column("store_key", Text, primary_key=True),
    Column("began_at", Instant, nullable=False),
)

_rows = unrecorded_images.c


def put(connection: Connection, store_keys: Collection[str], now: datetime) -> None:
    """Record that images are being stored under these keys; at least one."""
    connection.execute(insert(unrecorded_images), [{"store_key": key, "began_at": now} for key in store_keys])


def remove(connection: Connection, store_keys: Collection[str]) -> bool:
    """Delete these rows. Return False if one of them is gone: its image is or will be deleted."""
    return connection.execute(delete(unrecorded_images).where(_rows.store_key.in_(store_keys))).rowcount == len(
        store_keys
    )


def take(connection: Connection, before: datetime, limit: int) -> list[str]:
    """Delete the rows of requests that began before this time, `limit` at most, and return their keys."""
    found = select(_rows.store_key).where(_rows.began_at < before).limit(limit)
    return list(
        connection.execute(
            delete(unrecorded_images).where(_rows.store_key.in_(found)).returning(_rows.store_key)
        ).scalars()
    )
