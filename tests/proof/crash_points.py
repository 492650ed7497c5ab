"""Where a process can die, as a fuse that blows at one chosen point and then lets nothing more happen.

The seams are those that a service is handed: its database, its store, its HTTP transports, and the network that
brings it requests. Our own code is not touched.
"""

import random  # noqa: TID251 - a run is repeated by its seed
import re
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, TypeVar

import httpx
from sqlalchemy import Connection, event

from app.store import FolderStore
from tests.databases import OneByOne, engines
from tests.proof.crash_databases import Engine

T = TypeVar("T")

BEFORE_COMMIT, AFTER_COMMIT = "before the commit", "after the commit"
# What follows FROM may be a function, and `FOR UPDATE` changes nothing.
_READ = re.compile(r"\bFROM\s+\"?(\w+)\b(?!\s*\()")
_CHANGE = re.compile(r"\b(INSERT INTO|DELETE FROM|(?<!FOR )UPDATE)\s+\"?(\w+)")
_STEP_OF = {"idempotency": "submit", "loop": "worker"}
_AT_WORK: ContextVar[str | None] = ContextVar("at_work", default=None)  # whose unit runs in this thread or task
_ANSWER_OPEN = "dispatch"  # the step whose first commit opens the time in which only evidence can tell


class Stop(BaseException):
    """The process died here. Not an Exception, so that nothing of ours can outlive it."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The `number`-th time that this step gets to this place."""

    step: str
    place: str
    number: int


@dataclass
class Fuse:
    """Counts the points that are passed, and blows at one of them; blown, it stops whatever comes by."""

    at: Point | None = None
    passed: list[Point] = field(default_factory=list)
    blown: bool = False
    armed: bool = True
    answer_open: bool = False  # bytes may have left, and no answer is kept
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def point(self, step: str, place: str) -> None:
        if self.blown:
            raise Stop
        if not self.armed:
            return
        self._seen[step, place] += 1
        here = Point(step, place, self._seen[step, place])
        self.passed.append(here)
        if here == self.at:
            self.blown = True
            raise Stop

    def committed(self, step: str) -> None:
        """Dispatching commits twice for an attempt: that it is being asked for, and what came of it."""
        if step == _ANSWER_OPEN and self.armed:
            self.answer_open = not self.answer_open


class FusedDatabase(OneByOne):
    """The engine with a point before each statement of a unit of work, before its commit and after it."""

    def __init__(self, inner: Engine, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse
        for engine in engines(inner):
            event.listen(engine, "before_cursor_execute", self._on_statement)
        self.dialect = inner.dialect
        self.on_signal = inner.on_signal
        self.on_event = inner.on_event

    async def write(self, work: Callable[[Connection], T]) -> T:
        step = step_of(work)

        def unit(connection: Connection) -> T:
            result = self._run(step, work, connection)
            self._fuse.point(step, BEFORE_COMMIT)
            return result

        with self._dying():
            result = await self._inner.write(unit)
        self._fuse.committed(step)
        self._fuse.point(step, AFTER_COMMIT)
        return result

    async def read(self, work: Callable[[Connection], T]) -> T:
        step = step_of(work)
        with self._dying():
            return await self._inner.read(lambda connection: self._run(step, work, connection))

    def _run(self, step: str, work: Callable[[Connection], T], connection: Connection) -> T:
        with self._at_work(step):
            return work(connection)

    @contextmanager
    def _dying(self) -> Generator[None]:
        """A statement that is stopped takes its connection along, which the engine reports in its own way."""
        try:
            yield
        except Exception:
            if self._fuse.blown:
                raise Stop from None
            raise

    @contextmanager
    def _at_work(self, step: str) -> Generator[None]:
        here = _AT_WORK.set(step)
        try:
            yield
        finally:
            _AT_WORK.reset(here)

    def _on_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        step = _AT_WORK.get()
        if step is not None:  # else it is the engine's own BEGIN, SAVEPOINT or RELEASE
            self._fuse.point(step, shortened(statement))


def sample(points: Sequence[Point], how_many: int | None, seed: int = 1) -> list[Point]:
    """So many of these, always the same ones; None: all."""
    if how_many is None or how_many >= len(points):
        return list(points)
    return random.Random(seed).sample(points, how_many)  # noqa: S311 - a run is repeated by its seed


def step_of(work: Callable[..., Any]) -> str:
    """The step whose module wrote this unit of work."""
    work = work.func if isinstance(work, partial) else work
    if work.__module__.startswith("app.web."):
        return "submit"
    module = work.__module__.rpartition(".")[2]
    return _STEP_OF.get(module, module)


def shortened(statement: str) -> str:
    """What a statement does to which table, without its columns and values."""
    change = None if statement.lstrip().startswith("SELECT") else _CHANGE.search(statement)
    if change is not None:
        return f"{change[1]} {change[2]}"
    read = _READ.search(statement)
    return f"SELECT {read[1]}" if read else " ".join(re.findall(r"\w+", statement)[:2])


class FusedStore(FolderStore):
    """The folder with a point before and after a file is put."""

    fuse: Fuse

    async def put(self, key: str, source: IO[bytes]) -> None:
        step = "submit" if key.startswith("inputs/") else "collect"
        self.fuse.point(step, "file: before it is stored")
        await super().put(key, source)
        self.fuse.point(step, "file: after it is stored")


@dataclass
class FusedTransport(httpx.AsyncBaseTransport):
    """Requests of ours, with a point before each leaves and one after its answer came."""

    inner: httpx.AsyncBaseTransport
    fuse: Fuse

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        step, what = _ours(request)
        self.fuse.point(step, f"{what}: before it is sent")
        response = await self.inner.handle_async_request(request)
        self.fuse.point(step, f"{what}: after the response")
        return response


@dataclass
class Mortal(httpx.AsyncBaseTransport):
    """Requests to us: one that finds the process dead, or dying, breaks off as a socket would."""

    inner: httpx.AsyncBaseTransport
    fuse: Fuse

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        step = "callback" if request.url.path.startswith("/callbacks/") else "submit"
        try:
            self.fuse.point(step, "request: before it is read")
            response = await self.inner.handle_async_request(request)
            self.fuse.point(step, "request: before the response is sent")
        except Stop as stop:
            raise httpx.ReadError("the connection was lost", request=request) from stop
        return response


def _ours(request: httpx.Request) -> tuple[str, str]:
    if request.method == "POST":
        return "dispatch", "submit to the provider"
    if request.url.path.endswith("/get_result"):
        return "reconcile", "status request"
    return ("collect", "download") if request.url.path.startswith("/delivery/") else ("submit", "input image")
