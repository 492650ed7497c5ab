"""The table `evidence`: what each witness said of an attempt, raw, once, with its verdict and its effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    Row,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    exists,
    func,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.record.columns import Instant, Json, metadata
from app.record.submissions import submissions
from app.record.tasks import tasks
from app.task import Effect, Said, Status, Witness

evidence = Table(
    "evidence",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("submission_id", String(48), nullable=False),
    Column("witness", String(16), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("said", String(16), nullable=False),
    Column("effect", String(16), nullable=False),
    Column("detail", Text),
    Column("http_status", Integer),
    Column("headers", Json, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("copies", Integer, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("last_received_at", Instant, nullable=False),
    # The verdict belongs to it: a forged copy that came first must not swallow the signed original.
    UniqueConstraint("submission_id", "witness", "verdict", "digest"),
)
_KEY = ("submission_id", "witness", "verdict", "digest")


@dataclass(frozen=True, slots=True)
class Testimony:
    """A row of the table without its bytes."""

    id: str
    submission_id: str
    witness: Witness
    verdict: str
    digest: str
    said: Said
    effect: Effect
    detail: str | None
    http_status: int | None
    copies: int
    received_at: datetime
    last_received_at: datetime


def keep(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep these rows; one that is there already is counted as further copies. No two may share their key."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(evidence).values(list(rows))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=_KEY,
            set_={
                "copies": evidence.c.copies + statement.excluded.copies,
                "last_received_at": statement.excluded.last_received_at,
            },
        )
    )


def count_untrusted(connection: Connection, submission_id: str, verdict: str) -> int:
    """How many different callbacks with this verdict are kept for an attempt."""
    query = select(func.count()).where(
        evidence.c.submission_id == submission_id,
        evidence.c.witness == Witness.CALLBACK,
        evidence.c.verdict == verdict,
    )
    return connection.execute(query).scalar_one()


def last_polled_at(connection: Connection, submission_id: str) -> datetime | None:
    """When the provider was last asked about this attempt, whatever came of it."""
    query = select(func.max(evidence.c.last_received_at)).where(
        evidence.c.submission_id == submission_id, evidence.c.witness == Witness.POLL
    )
    last: datetime | None = connection.execute(query).scalar_one()
    return last


def answered_since(connection: Connection, submission_id: str, instant: datetime) -> bool:
    """Whether the provider gave a usable answer about this attempt since then."""
    query = select(evidence.c.id).where(
        evidence.c.submission_id == submission_id,
        evidence.c.witness == Witness.POLL,
        evidence.c.said != Said.LOST,
        evidence.c.last_received_at >= instant,
    )
    return connection.execute(query.limit(1)).one_or_none() is not None


def hints(connection: Connection, submission_id: str) -> list[bytes]:
    """What callbacks said of this attempt that proved nothing and were not refused, the latest first."""
    query = (
        select(evidence.c.body)
        .where(
            evidence.c.submission_id == submission_id,
            evidence.c.witness == Witness.CALLBACK,
            evidence.c.effect == Effect.HINTED,
        )
        .order_by(evidence.c.last_received_at.desc(), evidence.c.id.desc())
    )
    return list(connection.execute(query).scalars())


def called_back_lately(connection: Connection, limit: int) -> list[bool]:
    """For the latest tasks that came out and had an address to call: whether any callback came, proven or not.

    One of which nothing is kept any more is left out: nobody knows.
    """
    said = exists().where(evidence.c.submission_id == submissions.c.id)
    latest = union_all(*(_latest(status, limit) for status in (Status.READY, Status.STORED))).subquery()
    query = (
        select(said.where(evidence.c.witness == Witness.CALLBACK))
        .join(latest, latest.c.submission_id == submissions.c.id)
        .where(submissions.c.called_back, said)
        .order_by(latest.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _latest(status: Status, limit: int) -> Select[Any]:
    """The newest tasks in one state: an index has them in this order, whatever else there is."""
    query = select(tasks.c.id, tasks.c.submission_id).where(tasks.c.status == status)
    return select(query.order_by(tasks.c.id.desc()).limit(limit).subquery())


def of_task(connection: Connection, task_id: str) -> list[Testimony]:
    """All that was said of a task's attempts, the earliest first."""
    columns = [column for column in evidence.c if column.name not in {"headers", "body"}]
    query = (
        select(*columns)
        .join(submissions, submissions.c.id == evidence.c.submission_id)
        .where(submissions.c.task_id == task_id)
        .order_by(evidence.c.received_at, evidence.c.id)
    )
    return [_testimony_of(row) for row in connection.execute(query)]


def _testimony_of(row: Row[Any]) -> Testimony:
    values = row._asdict()
    values["witness"] = Witness(values["witness"])
    values["said"] = Said(values["said"])
    values["effect"] = Effect(values["effect"])
    return Testimony(**values)
