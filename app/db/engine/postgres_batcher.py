"""Batches on PostgreSQL."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from app.db.engine.async_engine import AsyncConnection, AsyncEngine
from app.db.engine.batches import Batcher, Bisection, Bounds, Item, Result, Waiting, Work
from app.db.engine.connector import Connector
from app.errors import DatabaseUnavailable

T = TypeVar("T")
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

# The statements of a batch take any number of rows. Planning them for each batch takes as long as running them.
_PLAN_ONCE = "SET plan_cache_mode = force_generic_plan"
_CLOSE_S = 4.0  # for the batches that are being written when the database is closed; a stop allows 8 s


class Transact(Protocol):
    """Runs a unit in the transaction that `begin` opens."""

    async def __call__(self, begin: Begin, work: Callable[[Connection], T]) -> T: ...


class PostgresBatcher(Batcher[Item, Result]):
    """A batcher that writes its batches one after the other, in an asyncio task that ends when no item waits."""

    def __init__(
        self, work: Work[Item, Result], bounds: Bounds, engine: AsyncEngine, transact: Transact, connector: Connector
    ) -> None:
        super().__init__(work, bounds)
        self._engine = engine
        self._transact = transact
        self._connector = connector
        self._connection: AsyncConnection | None = None  # kept, which saves the check of a pooled connection
        self._writing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Accept no more items, and write those that wait, as far as the time allows."""
        self.closed = True
        if self._writing is not None:
            _, late = await asyncio.wait({self._writing}, timeout=_CLOSE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    def _schedule(self) -> None:
        self._writing = asyncio.create_task(self._write_batches())

    async def _write_batches(self) -> None:
        batch: Sequence[Waiting[Item, Result]] = ()
        try:
            while self._waiting:
                batch = self._take()
                self._resolve(batch, await self._outcomes([waiting.item for waiting in batch]))
        except asyncio.CancelledError:
            batch = [*batch, *self._waiting]
            self._resolve(batch, [DatabaseUnavailable("the database is closed")] * len(batch))
            raise
        finally:
            self._is_scheduled = False

    async def _outcomes(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Write the items, and return a result or an error for each. A batch that fails is bisected."""
        bisection = Bisection[Item, Result](items)
        for part in bisection:
            try:
                results = await self._write(part)
            except Exception as error:  # noqa: BLE001 - passed to the callers of the items that fail
                bisection.failed(part, error)
            else:
                bisection.succeeded(results)
        return bisection.outcomes

    async def _write(self, items: Sequence[Item]) -> Sequence[Result]:
        return await self._transact(self._begin, lambda connection: self._work(connection, items))

    @asynccontextmanager
    async def _begin(self) -> AsyncGenerator[AsyncConnection]:
        if self._connection is None:
            connection = await self._engine.connect()
            if not self._connector.is_pooled:  # a pooler keeps no plan
                await connection.exec_driver_sql(_PLAN_ONCE)
                await connection.commit()
            self._connection = connection
        try:
            async with self._connection.begin():
                yield self._connection
        except BaseException:
            broken, self._connection = self._connection, None
            await broken.invalidate()
            await broken.close()
            raise
