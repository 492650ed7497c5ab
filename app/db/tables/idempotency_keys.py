"""The table `idempotency`: which request an `Idempotency-Key` stood for, and how it was answered."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, String, Table, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.db.engine.columns import Instant, Json, metadata

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", String(48), primary_key=True),  # scoped to the API key that sent it
    Column("idempotency_key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("answer", Json),  # null while the first request is being worked on
    Column("began_at", Instant, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class Remembered:
    digest: str
    answer: dict[str, Any] | None
    began_at: datetime


def begin(connection: Connection, key_id: str, idempotency_key: str, digest: str, now: datetime) -> bool:
    """Note that this request is being worked on; False when the key stands for a request already."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(idempotency).values(
        key_id=key_id, idempotency_key=idempotency_key, digest=digest, began_at=now
    )
    return connection.execute(statement.on_conflict_do_nothing()).rowcount == 1


def get(connection: Connection, key_id: str, idempotency_key: str) -> Remembered | None:
    query = select(idempotency.c.digest, idempotency.c.answer, idempotency.c.began_at).where(
        *_is(key_id, idempotency_key)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Remembered(**row._asdict())


def answer(
    connection: Connection, key_id: str, idempotency_key: str, began_at: datetime, given: dict[str, Any]
) -> bool:
    """Keep the answer of the request that began then; False when another one has the key now."""
    kept = connection.execute(
        update(idempotency)
        .where(*_is(key_id, idempotency_key), idempotency.c.began_at == began_at)
        .values(answer=given)
    )
    return kept.rowcount == 1


def forget(connection: Connection, key_id: str, idempotency_key: str, began_at: datetime) -> None:
    """Forget the request that began then, and no other."""
    connection.execute(delete(idempotency).where(*_is(key_id, idempotency_key), idempotency.c.began_at == began_at))


def release(connection: Connection, key_id: str, idempotency_key: str, began_at: datetime) -> None:
    """Forget the request that began then, unless it has an answer."""
    unanswered = idempotency.c.began_at == began_at, idempotency.c.answer.is_(None)
    connection.execute(delete(idempotency).where(*_is(key_id, idempotency_key), *unanswered))


def forget_unanswered(connection: Connection) -> None:
    """Forget what nobody works on any more, because no process lives that began it."""
    connection.execute(delete(idempotency).where(idempotency.c.answer.is_(None)))


def forget_before(connection: Connection, instant: datetime) -> int:
    """Forget what began before `instant`; how many there were."""
    return connection.execute(delete(idempotency).where(idempotency.c.began_at < instant)).rowcount


def _is(key_id: str, idempotency_key: str) -> tuple[Any, ...]:
    return idempotency.c.key_id == key_id, idempotency.c.idempotency_key == idempotency_key
