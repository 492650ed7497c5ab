"""The SQLite engine: one writer and a few read-only connections."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Dialect, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from app.db.engine.batches import BOUNDS, Batcher, Bounds, Item, Result, Work
from app.db.engine.commit_hooks import EVENTS, Listeners
from app.db.engine.fair_queue import owner
from app.db.engine.savepoint import OUTAGE, stop_iteration_error
from app.db.engine.uncancelled import pause
from app.db.engine.units import CallerUnit, SqliteBatcher
from app.db.engine.writer import Writer
from app.errors import ConfigurationError, DatabaseUnavailable

T = TypeVar("T")
P = ParamSpec("P")

_READERS = 4
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY_S = 5  # another process (a backup, `fluxhook migrate`) may lock the file this long
_RETRY_S = 0.01


class Sqlite:
    """The database at `sqlite:///PATH`, in WAL mode; each commit is synced to disk."""

    def __init__(self, url: str, bounds: Bounds = BOUNDS) -> None:
        self._path = file_of(url)
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        self._writing = _engine(self._path, "BEGIN IMMEDIATE", busy_timeout="0", query_only="OFF")
        self._reading = _engine(self._path, "BEGIN", busy_timeout=f"{_BUSY_S * 1000}", query_only="ON")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-reader")
        self._listeners = Listeners()
        self._writer = Writer(self._writing, self._listeners)
        self._bounds = bounds
        self._batchers: list[Batcher[Any, Any]] = []
        self._closed = False

    @property
    def dialect(self) -> Dialect:
        return self._writing.dialect

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines of SQLAlchemy that it uses, for listeners to their events."""
        return self._writing, self._reading

    async def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise DatabaseUnavailable("the database is closed")
        unit = CallerUnit(lambda connection: work(connection, *args, **kwargs))
        self._writer.add(unit, owner=None if unit.takes_long else owner.get())
        result: T = await unit.done  # the writer owns the unit now: a cancelled caller does not roll it back
        return result

    def batcher(self, work: Work[Item, Result]) -> Batcher[Item, Result]:
        batcher = SqliteBatcher(work, self._bounds, partial(self._writer.add, owner=None))
        self._batchers.append(batcher)
        return batcher

    async def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def unit(connection: Connection) -> T:
            return work(connection, *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, unit)

    @property
    def is_busy(self) -> bool:
        return self._writer.is_busy

    def on_jobs(self, listener: Callable[[], None], claimer: object | None = None) -> None:
        self._listeners.add(listener)
        self._listeners.claimer = claimer or self._listeners.claimer

    def on_events(self, listener: Callable[[], None]) -> None:
        self._listeners.add(listener, EVENTS)

    async def close(self) -> None:
        self._closed = True
        for batcher in self._batchers:
            batcher.closed = True
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        self._writing.dispose()
        self._reading.dispose()

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._reading.begin() as connection:
                return work(connection)
        except OUTAGE as error:
            raise DatabaseUnavailable("the database cannot be read at the moment") from error
        except DatabaseError as error:
            if getattr(error.orig, "sqlite_errorcode", None) not in _DAMAGED:
                raise
            reason = "the database's file is damaged or is not a SQLite file: restore a backup"
            raise DatabaseUnavailable(reason) from error
        except StopIteration as error:
            raise stop_iteration_error() from error


def file_of(url: str) -> str:
    """Return the path in `sqlite:///PATH`. Raises ConfigurationError if there is none."""
    try:
        path = make_url(url).database
    except ArgumentError:
        path = None
    if not path or path == ":memory:":
        raise ConfigurationError("FLUXHOOK_DATABASE_URL: SQLite needs a file, as in sqlite:///fluxhook.db")
    return path


def _engine(path: str, begin: str, **pragmas: str) -> Engine:
    # What is deleted is overwritten with zeros, whatever the library was built with.
    pragmas["secure_delete"] = "ON"
    engine = create_engine(
        f"sqlite:///{path}",
        # Parameters are hidden because errors must not show prompts. Connections move between the threads of a pool.
        hide_parameters=True,
        # Escaped, a character outside ASCII would take six bytes or twelve.
        json_serializer=partial(json.dumps, ensure_ascii=False),
        connect_args={"check_same_thread": False, "timeout": _BUSY_S},
        pool_size=_READERS,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not send BEGIN itself
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        # Without this, SQLite writes a statement journal of 64 KiB or more to a temporary file.
        connection.execute("PRAGMA temp_store=MEMORY")
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}")  # security: constants

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        until = time.monotonic() + _BUSY_S
        while True:
            try:
                driver.execute(begin)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise OperationalError(begin, None, error) from error
                pause(_RETRY_S)
            else:
                return

    return engine
