"""The circuit breaker of the image store: after a failure, no process calls the store for a short time.

Otherwise every collect job would wait for a failing store while other links expire. The state is not held in memory: it
is read from the table of spooled results, which all processes share.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, select

from app.db.tables.spooled_results import spooled_results

_OPEN_FOR = timedelta(seconds=15)
_FAILED = select(spooled_results.c.instance).where(spooled_results.c.tried_at > bindparam("since")).limit(1)


def is_open(connection: Connection, now: datetime) -> bool:
    """Return whether the store must not be called now, because it has just failed to take an image."""
    return connection.execute(_FAILED, {"since": now - _OPEN_FOR}).one_or_none() is not None
