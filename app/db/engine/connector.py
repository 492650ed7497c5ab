"""Opens the driver's connections to PostgreSQL, and recognises a connection pooler such as PgBouncer.

A pooler in transaction mode may run each transaction on another session of the server. Nothing may then outlive a
transaction: no named prepared statement, no `SET`, no `LISTEN`. A pooler that keeps sessions cannot be told from one
that does not, so every pooler is treated alike.
"""

import math
import time
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from app.db.engine.bounded_connection import BoundedConnection
from app.db.engine.timeouts import TIMEOUTS, Timeouts

# PostgreSQL reports the process number of a session when it starts. A pooler reports a number of its own, because it
# has to pass on a request to cancel a statement to the session that runs it at that moment.
_IS_POOLED = "SELECT WHERE pg_backend_pid() <> {pid}"
_ONE_ROW = "SELECT 1"  # the command tag: the simple protocol, which uses no prepared statement, returns no more
# Only a session that waits for its client: others end by their own limits.
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid IN ({pids}) AND datname = current_database() AND wait_event = 'ClientRead'
"""
# The server notices within half a minute that the machine of a client is gone.
_KEEPALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


def session_settings(timeouts: Timeouts) -> dict[str, str]:
    """Return the settings that hold in each of our transactions, by name."""
    return {
        "statement_timeout": _milliseconds(timeouts.statement_s),
        # A transaction that a hanging or lost process leaves open keeps its locks, and keeps all later events from the
        # readers of the feed.
        "idle_in_transaction_session_timeout": _milliseconds(timeouts.idle_s),
        # JIT compilation takes longer than any statement of ours, and a wrong estimate would start it.
        "jit": "off",
    }


class Connector:
    """Opens connections to one address; `is_pooled` is known when the first one is open.

    A connection that was closed without the server's knowledge, because it had fallen silent, leaves a session that may
    hold locks. If it was in the middle of a statement, no timeout of the server ends it. Each new connection therefore
    ends the sessions of connections that were closed before.
    """

    def __init__(self, timeouts: Timeouts = TIMEOUTS) -> None:
        self.is_pooled = False
        self.timeouts = timeouts
        self.sessions: set[int] = set()  # the process numbers of open sessions; without those through a pooler
        self._round_trips: dict[int, float] = {}  # in seconds, of these sessions
        self._last_round_trip_s = math.inf
        self._closed: set[int] = set()
        settings = {**session_settings(timeouts), **_KEEPALIVE}
        self._set_for_session = "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())

    @property
    def round_trip_s(self) -> float:
        """The shortest round trip of the open sessions, or that of the last one if none is open."""
        return min(self._round_trips.values(), default=self._last_round_trip_s)

    async def connect(self, *args: Any, **arguments: Any) -> BoundedConnection:
        """Open a connection with these arguments of `asyncpg.connect`, of which `timeout` may be left out.

        Its session has our settings. Through a pooler it has none, because the next transaction may run in another
        session, and it uses no named prepared statements: the server parses a statement each time that it runs.
        """
        if not self.is_pooled:
            connection = await self._open(*args, **arguments)
            if not await self._prepare(connection):
                self.sessions.add(connection.get_server_pid())
                return connection
            await connection.close()
            self.is_pooled = True
        return await self._open(*args, **arguments, statement_cache_size=0)

    async def _open(self, *args: Any, **arguments: Any) -> BoundedConnection:
        arguments.setdefault("timeout", self.timeouts.connect_s)
        connection: BoundedConnection = await asyncpg.connect(*args, **arguments, connection_class=BoundedConnection)
        connection.limit(self.timeouts)
        connection.on_close = self._note_close
        return connection

    def _note_close(self, pid: int) -> None:
        self.sessions.discard(pid)
        self._round_trips.pop(pid, None)
        self._closed.add(pid)

    async def _prepare(self, connection: BoundedConnection) -> bool:
        """Prepare the session of a new connection, unless it leads to a pooler. Return whether it does."""
        try:
            began = time.monotonic()
            tag = await connection.execute(_IS_POOLED.format(pid=connection.get_server_pid()))
            self._last_round_trip_s = time.monotonic() - began
            if tag == _ONE_ROW:
                return True
            began = time.monotonic()
            await connection.execute(self._set_for_session)
            # The first statement of a session takes longer in the server.
            self._last_round_trip_s = min(self._last_round_trip_s, time.monotonic() - began)
            self._round_trips[connection.get_server_pid()] = self._last_round_trip_s
            await self._end_closed_sessions(connection)
        except BaseException:
            connection.terminate()
            raise
        return False

    async def _end_closed_sessions(self, connection: BoundedConnection) -> None:
        if not self._closed:
            return
        pids = self._closed.copy()
        with suppress(asyncpg.PostgresError):  # the server then ends them by itself, if later
            await connection.execute(_END_SESSIONS.format(pids=", ".join(map(str, pids))))
        self._closed -= pids


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
