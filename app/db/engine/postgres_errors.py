"""Which errors of PostgreSQL and asyncpg are outages: they pass, or an operator can repair them at the server."""

from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.db.engine.postgres_url import DATABASE_URL, DIRECT_URL
from app.errors import DatabaseUnavailable

AWAY = "the database cannot be reached at the moment"
TOO_SLOW = "the database took too long for a statement: it is overloaded, or another transaction holds a lock"
NO_CONNECTION = "all connections of this process to the database are in use at the moment"
DEADLOCK_OR_CONFLICT = {"40001", "40P01"}
LOCKED = "55P03"  # a lock was not granted within the lock_timeout
_READ_ONLY = "25006"
# The prefix of the SQLSTATE, and the message. The first prefix that fits counts.
_OUTAGES = {
    "08": AWAY,
    _READ_ONLY: "the database is read-only at the moment",  # a standby, or a nearly full disk
    "28": f"the database refuses the user or the password in {DATABASE_URL} or {DIRECT_URL}",
    "3D": f"the server has no database of the name in {DATABASE_URL} or {DIRECT_URL}",
    "53": "the database is out of connections or disk space at the moment",
    "57014": TOO_SLOW,  # by statement_timeout, or cancelled by an administrator
    "57": AWAY,  # the server ended the session, or is still starting
}


class ConnectionLost(DatabaseUnavailable):
    """The connection was lost before the commit was sent: nothing was written."""


def outage(error: Exception, *, is_committing: bool) -> DatabaseUnavailable | None:
    """Return the outage that an error of a transaction shows, or None if it is an error of the unit."""
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable(NO_CONNECTION)
    if isinstance(error, OSError):
        return DatabaseUnavailable(AWAY)
    if not isinstance(error, DBAPIError):
        return None
    message = AWAY if isinstance(error, OperationalError | InterfaceError) else _message(error)
    if message is None:
        return None
    is_lost = error.connection_invalidated and not is_committing
    return ConnectionLost(message) if is_lost else DatabaseUnavailable(message)


def _message(error: DBAPIError) -> str | None:
    if _is_driver_fault(error):
        return AWAY
    state = str(sqlstate(error))
    return next((message for prefix, message in _OUTAGES.items() if state.startswith(prefix)), None)


def leave_a_standby(context: Any) -> None:
    """Drop the connection to a server that is no longer the primary, so that the next unit looks for the new one."""
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def sqlstate(error: DBAPIError) -> Any:
    return getattr(error.orig, "sqlstate", None)


def _is_driver_fault(error: DBAPIError) -> bool:
    """Whether asyncpg lost the state of its connection, as when the server ends it between two messages."""
    return isinstance(getattr(error.orig, "__cause__", None), asyncpg.InternalClientError)
