"""What the stand-ins for a database have in common, in tests that kill a process around what it writes."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from app.record import Connection
from app.record.grouped import Work

Item = TypeVar("Item")
T = TypeVar("T")


class OneByOne:
    """What would be written in groups is written alone, by this database's own `write`."""

    async def write(self, work: Callable[[Connection], Any]) -> Any:
        raise NotImplementedError

    def write_each(self, work: Work[Item, T], item: Item, size: int = 0) -> "asyncio.Future[T]":  # noqa: ARG002
        def alone(connection: Connection) -> T:
            return work(connection, [item])[0]

        alone.__module__ = work.__module__  # whose unit of work it is
        return asyncio.ensure_future(self.write(alone))
