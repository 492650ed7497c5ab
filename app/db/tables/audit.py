"""The table `audit`: the administrative actions, append-only. A trigger of the database refuses other changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, Row, String, Table, func, insert, select

from app.db.engine.columns import Instant, Json, metadata
from app.rules.audit_chain import START, AuditRecord
from app.rules.json_value import JsonObject

_LOCK = 0x61756469  # the key of the advisory lock that keeps records in one order

audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("key_id", String(48)),
    Column("application_id", String(48)),
    Column("address", String(64)),
    Column("action", String(32), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("detail", Json, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
)
Index("ix_audit_subject_sequence", audit.c.subject, audit.c.sequence)
_HEAD = select(audit.c.sequence, audit.c.digest).order_by(audit.c.sequence.desc()).limit(1)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A stored record with its place in the chain."""

    record: AuditRecord
    previous: str
    digest: str


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A record to be appended."""

    at: datetime
    key_id: str | None
    application_id: str | None
    address: str | None
    action: str
    subject: str
    detail: JsonObject


def append(connection: Connection, entry: NewEntry) -> None:
    """Append a record. On PostgreSQL, others that append wait until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    head = connection.execute(_HEAD).one_or_none()
    sequence, previous = (0, START) if head is None else (head.sequence, head.digest)
    values = {name: getattr(entry, name) for name in entry.__slots__}
    record = AuditRecord(sequence=sequence + 1, **values)
    digest = record.digest(previous)
    connection.execute(insert(audit), {**values, "sequence": sequence + 1, "previous": previous, "digest": digest})


def newest(connection: Connection, *, limit: int, before: int | None, subject: str | None) -> Sequence[AuditEntry]:
    """Return records, newest first: with lower numbers than `before`, and about one object."""
    query = select(audit).order_by(audit.c.sequence.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.sequence < before)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    return [_entry_of(row) for row in connection.execute(query)]


def _entry_of(row: Row[Any]) -> AuditEntry:
    values = row._asdict()
    previous, digest = values.pop("previous"), values.pop("digest")
    return AuditEntry(AuditRecord(**values), previous, digest)
