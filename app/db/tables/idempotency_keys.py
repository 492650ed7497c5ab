"""The table `idempotency`: the first request with each `Idempotency-Key`, and the answer to it.

Once its task is erased, a row has a digest in place of the key, which may name a person, and none of the request.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, String, Table, delete, select, update

from app.db.engine.columns import Instant, Json, insert_into, metadata
from app.db.tables import applications
from app.rules.json_value import JsonObject

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", String(48), primary_key=True),  # of the application that the row belongs to, see `first_key_id`
    Column("idempotency_key", String(255), primary_key=True),  # or its digest, see `_erased_form`
    Column("digest", String(64), nullable=False),  # of the request; empty once its task is erased
    Column("answer", Json),  # NULL while the first request is in progress
    Column("began_at", Instant, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to a request that made a task."""

    task_id: str
    task: JsonObject | None = field(default=None, repr=False)  # as it was shown; None once it is erased

    def as_json(self) -> JsonObject:
        """Return the form in which answers are stored: the task, or its id alone."""
        return {"id": self.task_id} if self.task is None else self.task

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings about the task, as they were shown."""
        shown = (self.task or {}).get("warnings")
        return tuple(map(str, shown)) if isinstance(shown, list) else ()

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> "StoredAnswer":
        return cls(stored["id"], stored if "status" in stored else None)


@dataclass(frozen=True, slots=True)
class Remembered:
    digest: str
    answer: StoredAnswer | None
    began_at: datetime

    def is_of(self, digests: Collection[str | None]) -> bool:
        """Whether the request has one of these digests. That of an erased task is not known any more."""
        return not self.digest or self.digest in digests


def begin(connection: Connection, application_id: str, idempotency_key: str, digest: str, now: datetime) -> bool:
    """Record that a request is in progress. Return False if the Idempotency-Key is already in use."""
    statement = insert_into(idempotency, connection.dialect.name).values(
        key_id=applications.first_key_id(application_id), idempotency_key=idempotency_key, digest=digest, began_at=now
    )
    return connection.execute(statement.on_conflict_do_nothing()).rowcount == 1


def get(connection: Connection, application_id: str, idempotency_key: str) -> Remembered | None:
    query = select(idempotency.c.digest, idempotency.c.answer, idempotency.c.began_at).where(
        *_of_request(application_id, idempotency_key)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Remembered(row.digest, row.answer and StoredAnswer.of_json(row.answer), row.began_at)


def get_erased(connection: Connection, application_id: str, idempotency_key: str) -> Remembered | None:
    """Return the request with this key if its task was erased."""
    return get(connection, application_id, _erased_form(application_id, idempotency_key))


def erase(connection: Connection, application_id: str, idempotency_key: str, task_id: str) -> None:
    """Leave of a request, whose task is erased, what finds it again: a digest of its key, and the id of the task."""
    erased_form = _erased_form(application_id, idempotency_key)
    connection.execute(delete(idempotency).where(*_of_request(application_id, erased_form)))  # of an earlier day
    erased = {"idempotency_key": erased_form, "digest": "", "answer": StoredAnswer(task_id).as_json()}
    connection.execute(update(idempotency).where(*_of_request(application_id, idempotency_key)).values(erased))


def answer(
    connection: Connection, application_id: str, idempotency_key: str, began_at: datetime, content: StoredAnswer
) -> bool:
    """Store the answer to the request that began at `began_at`. Return False if the key is no longer its key."""
    updated = connection.execute(
        update(idempotency)
        .where(*_of_request(application_id, idempotency_key), idempotency.c.began_at == began_at)
        .values(answer=content.as_json())
    )
    return updated.rowcount == 1


def remove(connection: Connection, application_id: str, idempotency_key: str, began_at: datetime) -> None:
    """Delete the row if it belongs to the request that began at `began_at`."""
    connection.execute(
        delete(idempotency).where(*_of_request(application_id, idempotency_key), idempotency.c.began_at == began_at)
    )


def release(connection: Connection, application_id: str, idempotency_key: str, began_at: datetime) -> None:
    """Delete the row if it belongs to the request that began at `began_at` and has no answer."""
    unanswered = idempotency.c.began_at == began_at, idempotency.c.answer.is_(None)
    connection.execute(delete(idempotency).where(*_of_request(application_id, idempotency_key), *unanswered))


def remove_unanswered(connection: Connection) -> None:
    """Delete all rows without an answer. Call it only if no process that could still answer is running."""
    connection.execute(delete(idempotency).where(idempotency.c.answer.is_(None)))


def prune(connection: Connection, instant: datetime) -> int:
    """Delete the rows of requests that began before `instant`. Return their number."""
    return connection.execute(delete(idempotency).where(idempotency.c.began_at < instant)).rowcount


def _erased_form(application_id: str, idempotency_key: str) -> str:
    """Return what stands in place of a key. No key has this form, because a key is printable."""
    digest = hashlib.sha256(f"{application_id}\0{idempotency_key}".encode()).hexdigest()
    return f"erased\t{digest}"


def _of_request(application_id: str, idempotency_key: str) -> tuple[ColumnElement[bool], ...]:
    return idempotency.c.key_id == applications.first_key_id(
        application_id
    ), idempotency.c.idempotency_key == idempotency_key
