"""Faults of one resource at one chosen call: the database, the store, or a host of the network."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.db.engine.database import Database
from app.store import FolderStore
from tests.databases import listening_for

T = TypeVar("T")


@dataclass
class Trip:
    """Counts calls, and makes the `number`-th fail; None lets all succeed."""

    number: int | None = None
    calls: int = 0
    paused: bool = False

    def is_due(self) -> bool:
        if self.paused:
            return False
        self.calls += 1
        return self.calls == self.number

    def fail_next(self) -> None:
        self.number = self.calls + 1

    @contextmanager
    def pause(self) -> Generator[None]:
        """Inside the block, calls succeed and do not count."""
        self.paused = True
        yield
        self.paused = False


class BreakingStore(FolderStore):
    """A folder in which one operation of the file system fails."""

    trip = Trip()

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        if self.trip.is_due():
            raise OSError(5, "Input/output error")
        return await super()._run(call, *arguments)


@dataclass
class BreakingHost(httpx.AsyncBaseTransport):
    """A host that cannot be reached for one request, of those whose path is chosen."""

    inner: httpx.AsyncBaseTransport
    trip: Trip
    is_chosen: Callable[[str], bool] = field(default=lambda _: True)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_chosen(request.url.path) and self.trip.is_due():
            raise httpx.ConnectError("the connection was refused", request=request)
        return await self.inner.handle_async_request(request)


@contextmanager
def failing_transaction(database: Database, trip: Trip) -> Generator[None]:
    """Make a transaction of this database fail as it begins, as if the server could not be reached."""

    def begin(_connection: Connection) -> None:
        if trip.is_due():
            raise OperationalError("BEGIN", None, ConnectionResetError())

    with listening_for(database, "begin", begin):
        yield


@contextmanager
def lost_commit_answer(database: Database, trip: Trip) -> Generator[None]:
    """Commit a transaction of this database, and lose the answer. Transactions that only read count too."""

    def commit(connection: Connection) -> None:
        if trip.is_due():
            driver: Any = connection.connection.dbapi_connection
            driver.commit()
            raise OperationalError("COMMIT", None, ConnectionResetError())

    with listening_for(database, "commit", commit):
        yield
