"""Savepoints of SQLite, and the errors that end a unit of work there."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.errors import DatabaseUnavailable

E = TypeVar("E", bound=BaseException)
OUTAGE = (OperationalError, sqlite3.OperationalError)  # the driver's own error if a statement bypassed SQLAlchemy


@contextmanager
def savepoint(connection: Connection) -> Generator[None]:
    """Roll back the block if it fails. Bypasses SQLAlchemy, whose savepoint takes longer than a statement."""
    require_transaction(connection)
    driver: Any = connection.connection.driver_connection
    driver.execute("SAVEPOINT unit")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.OperationalError):  # if the whole transaction is rolled back already
            driver.execute("ROLLBACK TO unit")
            driver.execute("RELEASE unit")
        raise
    driver.execute("RELEASE unit")


def require_transaction(connection: Connection) -> None:
    """Raise sqlite3.OperationalError if SQLite has rolled back the whole transaction by itself, as on a full disk.

    Without this check the statements that follow would commit one by one, and the final commit would not fail.
    """
    driver: Any = connection.connection.driver_connection
    if not driver.in_transaction:
        raise sqlite3.OperationalError("SQLite has rolled back the transaction")


def caller_error(error: E) -> E | Exception:
    """Return the error that the caller of a failed unit receives."""
    if isinstance(error, OUTAGE):
        outage = DatabaseUnavailable("the database cannot be written at the moment")
        outage.__cause__ = error
        return outage
    if isinstance(error, StopIteration):
        stopped = stop_iteration_error()
        stopped.__cause__ = error
        return stopped
    return error


def stop_iteration_error() -> RuntimeError:
    """Return the replacement of a StopIteration, as in PEP 479. A future cannot carry that: its caller would hang."""
    return RuntimeError("a unit of work raised StopIteration")
