"""The table `kept_aside`: the instances whose spools hold the image bytes of an attempt.

The bytes are spooled because the store could not take them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, Integer, String, Table, bindparam, delete, func, select, update

from app.db.engine.columns import Instant, metadata

spooled_results = Table(
    "kept_aside",
    metadata,
    Column("submission_id", String(48), key="attempt_id", primary_key=True),
    Column("instance", String(48), primary_key=True),  # names the DATA_DIR that holds the bytes
    Column("tries", Integer, nullable=False),
    Column("tried_at", Instant),  # when the store last refused them
    Column("kept_at", Instant, nullable=False),
)


@dataclass(frozen=True, slots=True)
class SpoolHolder:
    """An instance whose spool holds images, their number, and when the oldest was spooled."""

    instance: str
    images: int
    since: datetime


def record_holder(connection: Connection, attempt_id: str, instance: str, now: datetime, *, tried: bool) -> int:
    """Record that this instance still holds the bytes. Return how often it has been recorded.

    `tried`: the store has just failed to take them. The caller must hold the task's lock.
    """
    changes = {"tries": spooled_results.c.tries + 1, "tried_at": now if tried else spooled_results.c.tried_at}
    tries: int | None = connection.execute(
        update(spooled_results)
        .where(spooled_results.c.attempt_id == attempt_id, spooled_results.c.instance == instance)
        .values(changes)
        .returning(spooled_results.c.tries)
    ).scalar_one_or_none()
    if tries is not None:
        return tries
    row = {"attempt_id": attempt_id, "instance": instance, "tries": 1, "kept_at": now}
    connection.execute(spooled_results.insert().values(**row, tried_at=now if tried else None))
    return 1


_OF_ATTEMPT = spooled_results.c.attempt_id == bindparam("attempt_id")
_INSTANCES = select(spooled_results.c.instance).where(_OF_ATTEMPT)
_DELETE = delete(spooled_results).where(_OF_ATTEMPT)


def instances(connection: Connection, attempt_id: str) -> set[str]:
    """Return the instances that hold the bytes of this attempt."""
    return set(connection.execute(_INSTANCES, {"attempt_id": attempt_id}).scalars())


def delete_holders(connection: Connection, attempt_id: str, instance: str | None = None) -> None:
    """Delete the record of one instance for an attempt, or of all instances if `instance` is None."""
    statement = _DELETE if instance is None else _DELETE.where(spooled_results.c.instance == instance)
    connection.execute(statement, {"attempt_id": attempt_id})


def spool_holders(connection: Connection) -> Sequence[SpoolHolder]:
    """Return all instances with spooled images, the one with the oldest image first."""
    since = func.min(spooled_results.c.kept_at).label("since")
    columns = (spooled_results.c.instance, func.count().label("images"), since)
    query = select(*columns).group_by(spooled_results.c.instance).order_by(since)
    return [SpoolHolder(**row._asdict()) for row in connection.execute(query)]
