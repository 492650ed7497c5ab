"""A connection that does nothing but listen: PostgreSQL's NOTIFY, from whatever process, calls our listeners."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import NullPool
from sqlalchemy.exc import SQLAlchemyError

from app.db.engine.postgres_url import make_engine
from app.rules.backoff import LISTENING
from app.telemetry import logs

_LOOK_EVERY_S = 30.0  # a connection that is quiet and one that is gone look the same until it is asked
_ANSWER_S = 10.0
_LOST = (OSError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)

log = logs.get("listening")


class Listening:
    """One connection for all channels, made when the first listener comes, and made anew when it is lost.

    A listener is also called each time its channel is heard anew: it may have missed something before.
    """

    def __init__(self, url: str) -> None:
        # Not from the pool: a listener is never given back.
        self._engine = make_engine(url, poolclass=NullPool)
        self._listeners: dict[str, list[tuple[str, Callable[[], None]]]] = {}
        self._woken = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def add(self, channel: str, listener: Callable[[], None], holding: str = "") -> None:
        """Call `listener`, on the event loop, for each NOTIFY on this channel whose payload holds this text.

        It must neither block nor raise.
        """
        self._listeners.setdefault(channel, []).append((holding, listener))
        self._woken.set()
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._engine.dispose()

    async def _run(self) -> None:
        losses = 0
        while True:
            try:
                async with self._connection() as connection:
                    losses = 0
                    await self._listen(connection)
            except _LOST as error:
                log.warning("listener_disconnected", error=type(error).__name__)
            losses += 1
            await asyncio.sleep(LISTENING.wait(losses).total_seconds())

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Any]:
        async with self._engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            try:
                yield driver
            finally:
                await connection.invalidate()  # with what it listens to; nobody waits for a server that is gone

    async def _listen(self, connection: Any) -> None:
        """Until the connection ends."""
        connection.add_termination_listener(lambda _: self._woken.set())
        heard: set[str] = set()
        while not connection.is_closed():
            self._woken.clear()
            for channel in self._listeners.keys() - heard:
                await connection.add_listener(channel, self._hear)
                heard.add(channel)
                self._tell(channel, None)
            try:
                await asyncio.wait_for(self._woken.wait(), _LOOK_EVERY_S)
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=_ANSWER_S)

    def _hear(self, _connection: Any, _pid: int, channel: str, payload: str) -> None:
        self._tell(channel, payload)

    def _tell(self, channel: str, payload: str | None) -> None:
        for holding, listener in self._listeners[channel]:
            if payload is None or holding in payload:
                listener()
