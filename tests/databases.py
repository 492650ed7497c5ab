"""What the stand-ins for a database have in common, in tests that kill a process around what it writes."""

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

    async def write_each(self, work: Work[Item, T], item: Item, size: int = 0) -> T:  # noqa: ARG002 - nobody waits here
        def alone(connection: Connection) -> T:
            return work(connection, [item])[0]

        alone.__module__ = work.__module__  # whose unit of work it is
        outcome: T = await self.write(alone)
        return outcome
