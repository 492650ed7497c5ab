"""The table `ended_sessions`: sessions of the pages that were ended before they expired. A row lasts until then."""

from datetime import datetime

from sqlalchemy import Column, Connection, String, Table, bindparam, delete, select

from app.db.engine.columns import Instant, insert_into, metadata

ended_sessions = Table(
    "ended_sessions",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("expires_at", Instant, nullable=False, index=True),
)
_GET = select(ended_sessions.c.id).where(ended_sessions.c.id == bindparam("session_id"))


def end(connection: Connection, session_id: str, expires_at: datetime, now: datetime) -> None:
    """End a session, and delete the rows of sessions that have expired."""
    connection.execute(delete(ended_sessions).where(ended_sessions.c.expires_at < now))
    row = insert_into(ended_sessions, connection.dialect.name).values(id=session_id, expires_at=expires_at)
    connection.execute(row.on_conflict_do_nothing())


def is_ended(connection: Connection, session_id: str) -> bool:
    return connection.execute(_GET, {"session_id": session_id}).one_or_none() is not None
