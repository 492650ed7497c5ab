"""What delays the feed: the oldest open transaction on the PostgreSQL server that has written something.

Events that were committed after it began become visible to readers when it ends (see `tables/events`). It may belong to
another application, even in another database of the same server.
"""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

# Without the statements, which may hold values. The age is unknown if this user may not see the sessions of others.
_OLDEST_WRITER = text("""
SELECT description, clock_timestamp() - started AS age FROM (
    SELECT backend_xid AS xid, xact_start AS started, concat(
        'process ', pid, ' of ', usename, ' in the database ', datname, ' (',
        concat_ws(', ', nullif(left(application_name, 40), ''), state), ')') AS description
    FROM pg_stat_activity WHERE backend_xid IS NOT NULL
    UNION ALL
    SELECT transaction, prepared, concat(
        'the prepared transaction ', left(gid, 40), ' of ', owner, ' in the database ', database)
    FROM pg_prepared_xacts
) AS writer ORDER BY age(xid) DESC LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction of any session of the server. `age` is None if this database user may not see it."""

    description: str
    age: timedelta | None

    def __str__(self) -> str:
        if self.age is None:
            return self.description
        return f"{self.description}, open for {timedelta(seconds=self.age // timedelta(seconds=1))}"


def oldest_writer(connection: Connection) -> OpenTransaction | None:
    """Return the oldest open transaction that has written something; None without one, and on SQLite."""
    if connection.dialect.name != "postgresql":
        return None
    row = connection.execute(_OLDEST_WRITER).one_or_none()
    return None if row is None else OpenTransaction(row.description, row.age)
