"""Which processes of the service live, as far as the database can see."""

from sqlalchemy import Connection, text

# A process keeps one session under its name for notifications. The server ends it as soon as the process has ended.
_LIVES = text("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = :name)")


def lives(connection: Connection, process_id: str) -> bool:
    """Whether a process of another id than our own lives. On SQLite there is no other."""
    if connection.dialect.name != "postgresql":
        return False
    return bool(connection.scalar(_LIVES, {"name": session_name(process_id)}))


def session_name(process_id: str) -> str:
    """Return the name of the session by which a process shows that it lives."""
    return f"fluxhook {process_id}"
