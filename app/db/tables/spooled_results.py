"""The table `kept_aside`: which machine keeps checked bytes on its own disk, because the store could not take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, Integer, String, Table, delete, func, select, update

from app.db.engine.columns import Instant, metadata

kept_aside = Table(
    "kept_aside",
    metadata,
    Column("submission_id", String(48), primary_key=True),
    Column("instance", String(48), primary_key=True),  # the DATA_DIR that they lie in
    Column("tries", Integer, nullable=False),
    Column("tried_at", Instant),  # when the store last failed to take them
    Column("kept_at", Instant, nullable=False),
)


@dataclass(frozen=True, slots=True)
class SpoolHolder:
    """What one machine keeps until the store takes it."""

    instance: str
    images: int
    since: datetime


def note(connection: Connection, submission_id: str, instance: str, now: datetime, *, tried: bool) -> int:
    """That this machine keeps these bytes still; how often that was noted by now. The task must be locked."""
    again = {"tries": kept_aside.c.tries + 1, "tried_at": now if tried else kept_aside.c.tried_at}
    tries: int | None = connection.execute(
        update(kept_aside)
        .where(kept_aside.c.submission_id == submission_id, kept_aside.c.instance == instance)
        .values(again)
        .returning(kept_aside.c.tries)
    ).scalar_one_or_none()
    if tries is not None:
        return tries
    row = {"submission_id": submission_id, "instance": instance, "tries": 1, "kept_at": now}
    connection.execute(kept_aside.insert().values(**row, tried_at=now if tried else None))
    return 1


def instances(connection: Connection, submission_id: str) -> set[str]:
    """Who keeps the bytes of this attempt."""
    query = select(kept_aside.c.instance).where(kept_aside.c.submission_id == submission_id)
    return set(connection.execute(query).scalars())


def forget(connection: Connection, submission_id: str, instance: str | None = None) -> None:
    """One machine's copy of an attempt's bytes, or all of them, are of no use any more."""
    statement = delete(kept_aside).where(kept_aside.c.submission_id == submission_id)
    connection.execute(statement if instance is None else statement.where(kept_aside.c.instance == instance))


def store_failed_since(connection: Connection, since: datetime) -> bool:
    """Whether the store has failed to take anything since then."""
    query = select(kept_aside.c.instance).where(kept_aside.c.tried_at > since).limit(1)
    return connection.execute(query).one_or_none() is not None


def spool_holders(connection: Connection) -> Sequence[SpoolHolder]:
    """What lies where, the longest first."""
    since = func.min(kept_aside.c.kept_at)
    query = select(kept_aside.c.instance, func.count(), since).group_by(kept_aside.c.instance).order_by(since)
    return [SpoolHolder(*row) for row in connection.execute(query)]
