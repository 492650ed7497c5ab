"""The embedded engine: one writer thread that commits a few units at a time, a few read-only connections."""

import asyncio
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from app.errors import ConfigurationError, Unavailable
from app.record.grouped import Line, Lines, Work
from app.record.signals import EVENTS, Signals, take_effects, was_asked
from app.record.units import OUTAGE, Group, Single, Undone, Unit, require_transaction, stopped

T = TypeVar("T")
Item = TypeVar("Item")

_UNITS = 4  # that one commit serves at most: past that a group that comes meanwhile waits too long
_READERS = 4
_BUSY_MS = 5000  # another process (a backup, `fluxhook migrate`) may hold the file this long


class Sqlite:
    """`sqlite:///PATH`: WAL, every commit synced to disk."""

    def __init__(self, url: str) -> None:
        self._path = file_of(url)
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        self._writing = _engine(self._path, "BEGIN IMMEDIATE", synchronous="FULL", query_only="OFF")
        self._reading = _engine(self._path, "BEGIN", synchronous="FULL", query_only="ON")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-reader")
        self._signals = Signals()
        self._lines = Lines()
        self._kept: Connection | None = None  # the writer's: to ask the pool for it takes as long as a statement
        self._closed = False
        # Groups and single units take turns: many single ones take longer than any group.
        self._groups: deque[Group] = deque()
        self._singles: deque[Single] = deque()
        self._was_group = False  # what was written last
        self._waiting: queue.SimpleQueue[bool] = queue.SimpleQueue()  # one for each of them; False: no more will come
        self._writer = threading.Thread(target=self._write_until_closed, name="sqlite-writer", daemon=True)
        self._writer.start()

    @property
    def dialect(self) -> Dialect:
        return self._writing.dialect

    async def write(self, work: Callable[[Connection], T]) -> T:
        if self._closed:
            raise Unavailable("the database is closed")
        unit = Single(work)
        self._singles.append(unit)
        self._waiting.put(True)
        # Shielded: the writer owns the unit now, and a caller that goes away does not undo it.
        result: T = await asyncio.shield(asyncio.wrap_future(unit.done))
        return result

    def write_each(self, work: Work[Item, T], item: Item, size: int = 0) -> "asyncio.Future[T]":
        if self._closed:
            raise Unavailable("the database is closed")
        line = self._lines.of(work)
        done = line.join(item, size)
        self._give_turn(asyncio.get_running_loop(), line)
        return done

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def on_signal(self, listener: Callable[[], None]) -> None:
        self._signals.add(listener)

    def on_event(self, listener: Callable[[], None]) -> None:
        self._signals.add(listener, EVENTS)

    async def close(self) -> None:
        self._closed = True
        self._waiting.put(False)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._readers.shutdown)
        self._let_go()
        self._writing.dispose()
        self._reading.dispose()

    def _give_turn(self, loop: asyncio.AbstractEventLoop, line: Line[Any, Any]) -> None:
        if not line.has_turn:
            line.has_turn = True
            self._groups.append(Group(line, loop, partial(self._give_turn, loop)))
            self._waiting.put(True)

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._reading.begin() as connection:
                return work(connection)
        except OUTAGE as error:
            raise Unavailable("the database cannot be read at the moment") from error
        except StopIteration as error:
            raise stopped() from error

    def _write_until_closed(self) -> None:
        closed = False
        while not (closed and self._waiting.empty()):
            units, ends = self._next_units()
            closed = closed or ends
            if units:
                self._commit(units)

    def _next_units(self) -> tuple[list[Unit], bool]:
        """Wait for a group, which is written by itself, or for a few single units; and whether there will be no more.

        Where both wait they take turns, a group and one single unit.
        """
        units: list[Unit] = []
        while self._waiting.get():
            if self._groups and not units and not (self._was_group and self._singles):
                self._was_group = True
                return [self._groups.popleft()], False
            self._was_group = False
            units.append(self._singles.popleft())
            if len(units) == _UNITS or self._groups or not self._singles:
                return units, False
        return units, True

    def _commit(self, units: list[Unit]) -> None:
        alone = len(units) == 1
        failure = self._transact(units, alone=alone)
        if failure is not None and alone and not isinstance(failure.__cause__, OUTAGE):
            failure = self._transact(units, alone=False)  # so that whoever is at fault is found
        if failure is not None:
            for unit in units:
                unit.fail(failure)
            return
        for unit in units:
            unit.release()
        self._signals.send(set[str]().union(*[unit.asked for unit in units]))

    def _transact(self, units: list[Unit], *, alone: bool) -> Unavailable | None:
        """None when all of it is durable, or none of it because its only unit wants it so."""
        try:
            connection = self._kept = self._kept or self._writing.connect()
            with connection.begin():
                for forget in (was_asked, take_effects):  # what a group left that was undone
                    forget(connection)
                for done, unit in enumerate(units, 1):
                    unit.run(connection, alone=alone)
                    require_transaction(connection)  # else those before it are undone too, and must not be told else
                    if self._groups and units[done:]:
                        self._put_back(units[done:])
                        del units[done:]
        except Undone:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it was, the callers must learn of it
            failure = Unavailable("the database could not commit")
            failure.__cause__ = error
            self._let_go()
            return failure
        return None

    def _put_back(self, units: Sequence[Unit]) -> None:
        """Have these single units wait for the next transaction, before all that came later."""
        for unit in reversed(units):
            assert isinstance(unit, Single)  # noqa: S101 - a group is by itself
            self._singles.appendleft(unit)
            self._waiting.put(True)

    def _let_go(self) -> None:
        """Give the writer's connection back to the pool, which puts it in order."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def file_of(url: str) -> str:
    """The path of the file in `sqlite:///PATH`."""
    path = make_url(url).database
    if not path or path == ":memory:":
        raise ConfigurationError("FLUXHOOK_DATABASE_URL: SQLite needs a file, as in sqlite:///fluxhook.db")
    return path


def _engine(path: str, begin: str, **pragmas: str) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        # Errors must not show prompts; a thread pool hands connections from thread to thread.
        hide_parameters=True,
        connect_args={"check_same_thread": False, "timeout": _BUSY_MS / 1000},
        pool_size=_READERS,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver leaves BEGIN to us
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        # What a statement needs to undo itself it would write into a file of its own, from 64 KiB on.
        connection.execute("PRAGMA temp_store=MEMORY")
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        try:
            connection.connection.driver_connection.execute(begin)  # type: ignore[union-attr] # it is connected
        except sqlite3.OperationalError as error:
            raise OperationalError(begin, None, error) from error

    return engine
