"""Calls listeners for each NOTIFY of PostgreSQL, from any process, on a connection that does nothing else.

Through a connection pooler, which may deliver no notification, it calls them at regular intervals instead.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import NullPool
from sqlalchemy.exc import SQLAlchemyError

from app.db.engine.connector import Connector
from app.db.engine.postgres_url import DATABASE_URL, DIRECT_URL, make_engine
from app.db.engine.timeouts import TIMEOUTS, Timeouts
from app.rules.backoff import LISTENING
from app.telemetry import logs

_CHECK_EVERY_S = 10.0  # without a query, a lost connection cannot be told from an idle one
_POLL_S = 1.0  # between calls of the listeners, where notifications do not arrive
_LOST = (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)

log = logs.get("listening")


class _Listener(NamedTuple):
    call: Callable[[], None]
    containing: str
    but_not_from: Collection[int]


class Listening:
    """One connection for all channels, opened with the first listener and reopened after it is lost.

    A listener is also called each time its channel is subscribed, because notifications may have been missed before.
    `direct_url` is an address of the same database that keeps a session for each connection. The connection is checked
    every `check_every_s` seconds.
    """

    def __init__(
        self,
        url: str,
        direct_url: str | None = None,
        timeouts: Timeouts = TIMEOUTS,
        check_every_s: float = _CHECK_EVERY_S,
    ) -> None:
        self._connector = Connector(timeouts)
        self._check_every_s = check_every_s
        self._keeps_sessions = direct_url is not None
        setting = DATABASE_URL if direct_url is None else DIRECT_URL
        # Without a pool: the connection is never returned to one.
        self._engine = make_engine(direct_url or url, self._connector, setting, poolclass=NullPool)
        self._listeners: dict[str, list[_Listener]] = {}
        self._changed = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._session_name: str | None = None

    def show(self, session_name: str) -> None:
        """Keep the connection open from now on, with this name, as long as the process lives. Letters and digits."""
        self._session_name = session_name
        self._start()

    @property
    def is_shown(self) -> bool:
        """Whether the connection can show that the process lives: through a pooler it cannot."""
        return not self._must_poll

    def add(
        self, channel: str, listener: Callable[[], None], containing: str = "", but_not_from: Collection[int] = ()
    ) -> None:
        """Call `listener`, on the event loop, for each NOTIFY on `channel` whose payload contains `containing`.

        `but_not_from`: the process numbers of sessions whose notifications are ignored; they may change. The listener
        must neither block nor raise.
        """
        self._listeners.setdefault(channel, []).append(_Listener(listener, containing, but_not_from))
        self._changed.set()
        self._start()

    def _start(self) -> None:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._engine.dispose()

    async def _run(self) -> None:
        losses = 0
        while not self._must_poll:
            try:
                async with self._connection() as connection:
                    losses = 0
                    if not self._must_poll:
                        await self._listen(connection)
            except _LOST as error:
                log.warning("listener_disconnected", error=type(error).__name__)
            losses += 1
            await asyncio.sleep(LISTENING.wait(losses).total_seconds())
        log.info("polling_instead_of_listening", every_s=_POLL_S)
        await self._poll()

    @property
    def _must_poll(self) -> bool:
        return self._connector.is_pooled and not self._keeps_sessions

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        async with self._engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            try:
                yield driver
            finally:
                await connection.invalidate()  # drops its subscriptions, without waiting for the server

    async def _listen(self, connection: Any) -> None:
        """Pass on notifications until the connection is closed."""
        connection.add_termination_listener(lambda _: self._changed.set())
        subscribed: set[str] = set()
        if self._session_name is not None:
            await connection.execute(f"SET application_name = '{self._session_name}'")  # security: a name of ours
        while not connection.is_closed():
            self._changed.clear()
            for channel in self._listeners.keys() - subscribed:
                await connection.add_listener(channel, self._receive)
                subscribed.add(channel)
                self._call_listeners(channel)
            try:
                await asyncio.wait_for(self._changed.wait(), self._check_every_s)
            except TimeoutError:
                await connection.execute("SELECT 1")

    async def _poll(self) -> None:
        while True:
            for channel in self._listeners:
                self._call_listeners(channel)
            await asyncio.sleep(_POLL_S)

    def _receive(self, _connection: Any, pid: int, channel: str, payload: str) -> None:
        for listener in self._listeners[channel]:
            if listener.containing in payload and pid not in listener.but_not_from:
                listener.call()

    def _call_listeners(self, channel: str) -> None:
        for listener in self._listeners[channel]:
            listener.call()
