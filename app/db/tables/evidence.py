"""The table `evidence`: what each witness said of an attempt, raw, once, with its verdict and its effect."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ClauseElement,
    Column,
    Connection,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    Row,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    exists,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.db.engine.bulk import Bulk, BulkRead
from app.db.engine.columns import Instant, Json, metadata
from app.db.tables.attempts import submissions
from app.db.tables.tasks import tasks
from app.rules.task import Effect, Said, Status, Witness
from app.security.verify import Verdict

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
# Written out: a partial index is not found by a parameter.
IS_CALLBACK = evidence.c.witness == literal_column(f"'{Witness.CALLBACK}'")
IS_NOT_SIGNED = and_(IS_CALLBACK, evidence.c.verdict != literal_column(f"'{Verdict.SIGNED}'"))
# The usual callback is signed, and has nothing to pay for this.
Index(
    "ix_evidence_not_signed",
    *(evidence.c.verdict, evidence.c.id),
    sqlite_where=IS_NOT_SIGNED,
    postgresql_where=IS_NOT_SIGNED,
)
# Bytes and headers are for whoever looks at one.
SAID = [column for column in evidence.c if column.name not in {"headers", "body"}]


@dataclass(frozen=True, slots=True)
class EvidenceRow:
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


class NewEvidence(NamedTuple):
    """A row as it is written. Plain text where there is an enum for it: sqlite3 takes longer over a kind of text."""

    id: str
    submission_id: str
    witness: str
    verdict: str
    digest: str
    said: str
    effect: str
    detail: str | None
    http_status: int | None
    headers: str  # as JSON
    copies: int
    received_at: datetime
    last_received_at: datetime
    body: bytes


def keep(connection: Connection, rows: Sequence[NewEvidence]) -> None:
    """Keep these rows; one that is there already is counted as further copies. No two may share their key."""
    _KEEP.write(connection, rows)


def _keep(given: FromClause, dialect: str) -> ClauseElement:
    insert: postgresql.Insert = (postgresql if dialect == "postgresql" else sqlite).insert(evidence)
    # SQLite takes ON CONFLICT for a join's condition where no WHERE stands before it.
    rows = select(*(given.c[name] for name in NewEvidence._fields)).where(literal_column("true"))
    statement = insert.from_select(NewEvidence._fields, rows)
    new = statement.excluded
    changed = {"copies": evidence.c.copies + new.copies, "last_received_at": new.last_received_at}
    return statement.on_conflict_do_update(index_elements=_KEY, set_=changed)


_KEEP = Bulk({name: evidence.c[name].type for name in NewEvidence._fields}, _keep)


def known(connection: Connection, keys: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Those of these keys (submission, witness, verdict, digest) that a row is kept under."""
    return {tuple(row) for row in _KNOWN.find(connection, list(keys))} if keys else set()


def _known(given: FromClause, _dialect: str) -> ClauseElement:
    same = and_(*(evidence.c[name] == given.c[name] for name in _KEY))
    return select(*(given.c[name] for name in _KEY)).join_from(given, evidence, same)


_KNOWN = BulkRead({name: evidence.c[name].type for name in _KEY}, _known)


def count_callbacks(connection: Connection, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """How many different callbacks are kept for each of these attempts with that verdict."""
    if not wanted:
        return {}
    found = {(row[0], row[1]): row[2] for row in _COUNT.find(connection, list(wanted))}
    return {each: found.get(each, 0) for each in wanted}


def _count(given: FromClause, _dialect: str) -> ClauseElement:
    of_these = (
        (evidence.c.submission_id == given.c.submission_id) & IS_CALLBACK & (evidence.c.verdict == given.c.verdict)
    )
    return (
        select(given.c.submission_id, given.c.verdict, func.count())
        .join_from(given, evidence, of_these)
        .group_by(given.c.submission_id, given.c.verdict)
    )


_COUNT = BulkRead({name: evidence.c[name].type for name in ("submission_id", "verdict")}, _count)


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


def callbacks_came_lately(connection: Connection, limit: int) -> list[bool]:
    """For the latest tasks that came out and had an address to call: whether any callback came, proven or not.

    One of which nothing is kept any more is left out: nobody knows.
    """
    said = exists().where(evidence.c.submission_id == submissions.c.id)
    latest = union_all(*(_latest(status, limit) for status in (Status.READY, Status.STORED))).subquery()
    query = (
        select(said.where(evidence.c.witness == Witness.CALLBACK))
        .join(latest, latest.c.submission_id == submissions.c.id)
        .where(submissions.c.callback_requested, said)
        .order_by(latest.c.id.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _latest(status: Status, limit: int) -> Select[Any]:
    """The newest tasks in one state: an index has them in this order, whatever else there is."""
    query = select(tasks.c.id, tasks.c.submission_id).where(tasks.c.status == status)
    return select(query.order_by(tasks.c.id.desc()).limit(limit).subquery())


def of_task(connection: Connection, task_id: str) -> list[EvidenceRow]:
    """All that was said of a task's attempts, the earliest first."""
    query = (
        select(*SAID)
        .join(submissions, submissions.c.id == evidence.c.submission_id)
        .where(submissions.c.task_id == task_id)
        .order_by(evidence.c.received_at, evidence.c.id)
    )
    return [evidence_row(row) for row in connection.execute(query)]


def evidence_row(row: Row[Any]) -> EvidenceRow:
    values = row._asdict()
    values["witness"] = Witness(values["witness"])
    values["said"] = Said(values["said"])
    values["effect"] = Effect(values["effect"])
    return EvidenceRow(**values)
