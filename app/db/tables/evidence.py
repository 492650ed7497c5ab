"""The table `evidence`: each report of a witness about an attempt, stored raw and once, with verdict and effect."""

from collections.abc import Collection, Mapping, Sequence
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
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    func,
    literal_column,
    select,
)

from app.db.engine.bulk import Bulk, BulkRead, DeferredWrites
from app.db.engine.columns import Instant, Json, by_key, insert_into, metadata
from app.db.tables.attempts import attempts
from app.rules.task import Effect, Report, Said, Witness
from app.security.verify import Verdict

evidence = Table(
    "evidence",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("submission_id", String(48), key="attempt_id", nullable=False),
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
    # The verdict is part of the key: a forged copy that arrives first must not hide the signed original.
    UniqueConstraint("attempt_id", "witness", "verdict", "digest"),
)
# Literals, because the planner does not match a bound parameter with the condition of a partial index.
IS_CALLBACK = evidence.c.witness == literal_column(f"'{Witness.CALLBACK}'")
IS_NOT_SIGNED = and_(IS_CALLBACK, evidence.c.verdict != literal_column(f"'{Verdict.SIGNED}'"))
# Signed callbacks, the usual case, are not in this index, so it costs them nothing.
Index(
    "ix_evidence_not_signed",
    *(evidence.c.verdict, evidence.c.id),
    sqlite_where=IS_NOT_SIGNED,
    postgresql_where=IS_NOT_SIGNED,
)
# Headers and body are read only for a single row.
COLUMNS_WITHOUT_CONTENT = [column for column in evidence.c if column.name not in {"headers", "body"}]


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """A row of the table without headers and body."""

    id: str
    attempt_id: str
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


class Evidence(NamedTuple):
    """What one witness said about one attempt: the raw bytes, and the report read from them.

    Its `repr` shows none of that, so that no log line can.
    """

    attempt_id: str
    witness: Witness
    verdict: Verdict
    proven: bool
    report: Report
    body: bytes
    received_at: datetime
    headers: str = "{}"  # as JSON
    http_status: int | None = None

    def __repr__(self) -> str:
        return f"<evidence about {self.attempt_id}>"


class EvidenceKey(NamedTuple):
    """What a copy of a piece of evidence has in common with its original."""

    attempt_id: str
    witness: str
    verdict: str
    digest: str  # of the body


class NewEvidence(NamedTuple):
    """A row to be written. Enums are passed as plain strings, because sqlite3 is slower with subclasses of `str`."""

    id: str
    attempt_id: str
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


def upsert(writes: DeferredWrites, rows: Sequence[NewEvidence]) -> None:
    """Insert rows, at least one. If a row is already stored, add to its copies instead.

    No two of these rows may share a key.
    """
    writes.add(_UPSERT, rows)


def _build_upsert(relation: FromClause, dialect: str) -> ClauseElement:
    # Without a WHERE before it, SQLite parses ON CONFLICT as a join condition.
    rows = select(*(relation.c[name] for name in NewEvidence._fields)).where(literal_column("true"))
    statement = insert_into(evidence, dialect).from_select(NewEvidence._fields, rows)
    new = statement.excluded
    changes = {"copies": evidence.c.copies + new.copies, "last_received_at": new.last_received_at}
    return statement.on_conflict_do_update(
        index_elements=[evidence.c[name] for name in EvidenceKey._fields], set_=changes
    )


_UPSERT = Bulk({name: evidence.c[name].type for name in NewEvidence._fields}, _build_upsert)


def known(connection: Connection, keys: Collection[EvidenceKey]) -> set[EvidenceKey]:
    """Return those of these keys that have a row."""
    return {EvidenceKey(*row) for row in _KNOWN.find(connection, list(keys))} if keys else set()


def _select_known(relation: FromClause, _dialect: str) -> ClauseElement:
    same_key = and_(*(evidence.c[name] == relation.c[name] for name in EvidenceKey._fields))
    return select(*(relation.c[name] for name in EvidenceKey._fields)).join_from(relation, evidence, same_key)


_KNOWN = BulkRead({name: evidence.c[name].type for name in EvidenceKey._fields}, _select_known)


def count_callbacks(connection: Connection, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Count the distinct stored callbacks for each pair of attempt id and verdict."""
    if not pairs:
        return {}
    found = _COUNT.find(connection, list(pairs))
    counts = {(attempt_id, verdict): count for attempt_id, verdict, count in found}
    return {pair: counts.get(pair, 0) for pair in pairs}


def _select_counts(relation: FromClause, _dialect: str) -> ClauseElement:
    of_pair = (
        (evidence.c.attempt_id == relation.c.attempt_id) & IS_CALLBACK & (evidence.c.verdict == relation.c.verdict)
    )
    return (
        select(relation.c.attempt_id, relation.c.verdict, func.count())
        .join_from(relation, evidence, of_pair)
        .group_by(relation.c.attempt_id, relation.c.verdict)
    )


_COUNT = BulkRead({name: evidence.c[name].type for name in ("attempt_id", "verdict")}, _select_counts)


def last_polled_at(connection: Connection, attempt_id: str) -> datetime | None:
    """Return when the provider was last polled for this attempt, whatever the result, or None."""
    query = select(func.max(evidence.c.last_received_at)).where(
        evidence.c.attempt_id == attempt_id, evidence.c.witness == Witness.POLL
    )
    last: datetime | None = connection.execute(query).scalar_one()
    return last


def answered_since(connection: Connection, attempt_id: str, instant: datetime) -> bool:
    """Return whether a poll for this attempt has had a usable answer at or after `instant`."""
    query = select(evidence.c.id).where(
        evidence.c.attempt_id == attempt_id,
        evidence.c.witness == Witness.POLL,
        evidence.c.said != Said.LOST,
        evidence.c.last_received_at >= instant,
    )
    return connection.execute(query.limit(1)).one_or_none() is not None


def hints(connection: Connection, attempt_id: str) -> list[bytes]:
    """Return the bodies of the callbacks stored as hints for this attempt, latest first."""
    query = (
        select(evidence.c.body)
        .where(
            evidence.c.attempt_id == attempt_id,
            evidence.c.witness == Witness.CALLBACK,
            evidence.c.effect == Effect.HINTED,
        )
        .order_by(evidence.c.last_received_at.desc(), evidence.c.id.desc())
    )
    return list(connection.execute(query).scalars())


class FailureReport(NamedTuple):
    witness: Witness
    body: bytes


def failures(connection: Connection, attempt_id: str) -> list[FailureReport]:
    """Return the proven reports that this attempt failed, first report first."""
    query = (
        select(evidence.c.witness, evidence.c.body)
        .where(
            evidence.c.attempt_id == attempt_id,
            evidence.c.said == Said.FAILED,
            evidence.c.verdict.in_((Verdict.SIGNED, Verdict.SHARED_SECRET, Verdict.FETCHED)),
        )
        .order_by(evidence.c.received_at, evidence.c.id)
    )
    return [FailureReport(Witness(row.witness), row.body) for row in connection.execute(query)]


def of_task(connection: Connection, task_id: str) -> list[EvidenceRow]:
    """Return all evidence about a task's attempts, earliest first."""
    query = (
        select(*COLUMNS_WITHOUT_CONTENT)
        .join(attempts, attempts.c.id == evidence.c.attempt_id)
        .where(attempts.c.task_id == task_id)
        .order_by(evidence.c.received_at, evidence.c.id)
    )
    return [evidence_row(row) for row in connection.execute(query)]


class EvidenceContent(NamedTuple):
    """A row with what was received: headers as stored, which leave out secrets, and the body."""

    row: EvidenceRow
    headers: Mapping[str, str]
    body: bytes


def get(connection: Connection, evidence_id: str) -> EvidenceContent | None:
    found = connection.execute(select(evidence).where(evidence.c.id == evidence_id)).one_or_none()
    if found is None:
        return None
    without_content = {name: value for name, value in by_key(evidence, found).items() if name in _ROW_NAMES}
    return EvidenceContent(_row_of(without_content), found.headers, found.body)


_ROW_NAMES = frozenset(column.key for column in COLUMNS_WITHOUT_CONTENT)


def evidence_row(row: Row[Any]) -> EvidenceRow:
    return _row_of(by_key(evidence, row))


def _row_of(values: dict[str, Any]) -> EvidenceRow:
    values["witness"] = Witness(values["witness"])
    values["said"] = Said(values["said"])
    values["effect"] = Effect(values["effect"])
    return EvidenceRow(**values)
