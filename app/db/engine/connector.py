"""Opens the driver's connections to PostgreSQL, and recognises a connection pooler such as PgBouncer.

A pooler in transaction mode may run each transaction on another session of the server. Nothing may then outlive a
transaction: no named prepared statement, no `SET`, no `LISTEN`. A pooler that keeps sessions cannot be told from one
that does not, so every pooler is treated alike.
"""

from typing import Any

import asyncpg  # type: ignore[import-untyped]

from app.db.engine.bounded_connection import BoundedConnection
from app.db.engine.timeouts import TIMEOUTS, Timeouts

# PostgreSQL reports the process number of a session when it starts. A pooler reports a number of its own, because it
# has to pass on a request to cancel a statement to the session that runs it at that moment.
_IS_POOLED = "SELECT WHERE pg_backend_pid() <> {pid}"
_ONE_ROW = "SELECT 1"  # the command tag: the simple protocol, which uses no prepared statement, returns no more


class Connector:
    """Opens connections to one address; `is_pooled` is known when the first one is open."""

    def __init__(self, timeouts: Timeouts = TIMEOUTS) -> None:
        self.is_pooled = False
        self.timeouts = timeouts

    async def connect(self, *args: Any, **arguments: Any) -> BoundedConnection:
        """Open a connection with these arguments of `asyncpg.connect`, of which `timeout` may be left out.

        Through a pooler, it uses no named prepared statements: the server parses a statement each time that it runs.
        """
        if not self.is_pooled:
            connection = await self._open(*args, **arguments)
            if not await _is_pooled(connection):
                return connection
            await connection.close()
            self.is_pooled = True
        return await self._open(*args, **arguments, statement_cache_size=0)

    async def _open(self, *args: Any, **arguments: Any) -> BoundedConnection:
        arguments.setdefault("timeout", self.timeouts.connect_s)
        connection: BoundedConnection = await asyncpg.connect(*args, **arguments, connection_class=BoundedConnection)
        connection.limit(self.timeouts)
        return connection


async def _is_pooled(connection: BoundedConnection) -> bool:
    try:
        tag = await connection.execute(_IS_POOLED.format(pid=connection.get_server_pid()))
    except BaseException:
        connection.terminate()
        raise
    return bool(tag == _ONE_ROW)
