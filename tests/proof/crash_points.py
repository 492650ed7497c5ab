"""Where a process can die, as a fuse that blows at one chosen point and then lets nothing more happen.

The seams are those that a service is handed: its database, its store, its HTTP transports, and the network that
brings it requests. Our own code is not touched.
"""

import re
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

import httpx
from sqlalchemy import Connection, event

from app.record.sqlite import Sqlite
from app.store import FolderStore

T = TypeVar("T")

BEFORE_COMMIT, AFTER_COMMIT = "before the commit", "after the commit"
_STATEMENT = re.compile(r"^\s*(SELECT|INSERT|UPDATE|DELETE).*?(?:INTO|UPDATE|FROM)\s+\"?(\w+)", re.DOTALL)
_STEP_OF = {"web": "submit", "idempotency": "submit"}
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


class FusedDatabase:
    """The engine with a point before each statement of a unit of work, before its commit and after it."""

    def __init__(self, inner: Sqlite, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse
        self._here = threading.local()  # which step's unit this thread works on
        for engine in (inner._writing, inner._reading):
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
        self._here.step = step
        try:
            yield
        finally:
            self._here.step = None

    def _on_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        step = getattr(self._here, "step", None)
        if step is not None:  # else it is the engine's own BEGIN, SAVEPOINT or RELEASE
            self._fuse.point(step, shortened(statement))


def step_of(work: Callable[..., Any]) -> str:
    """The step whose module wrote this unit of work."""
    module = work.__module__.removeprefix("app.").partition(".")[0]
    return _STEP_OF.get(module, module)


def shortened(statement: str) -> str:
    """What a statement does to which table, without its columns and values."""
    found = _STATEMENT.match(statement)
    if found is None:
        return " ".join(statement.split()[:2])
    verb, table = found[1], found[2]
    joint = {"INSERT": "INSERT INTO", "DELETE": "DELETE FROM"}.get(verb, verb)
    return f"{joint} {table}"


class FusedStore(FolderStore):
    """The folder with a point before and after a file is put."""

    fuse: Fuse

    async def put(self, key: str, source: IO[bytes]) -> None:
        step = "submit" if key.startswith("inputs/") else "collect"
        self.fuse.point(step, "file: before it is kept")
        await super().put(key, source)
        self.fuse.point(step, "file: after it is kept")


@dataclass
class FusedTransport(httpx.AsyncBaseTransport):
    """Requests of ours, with a point before each leaves and one after its answer came."""

    inner: httpx.AsyncBaseTransport
    fuse: Fuse

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        step, what = _ours(request)
        self.fuse.point(step, f"{what}: before it is sent")
        response = await self.inner.handle_async_request(request)
        self.fuse.point(step, f"{what}: after the answer")
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
            self.fuse.point(step, "request: before the answer leaves")
        except Stop as stop:
            raise httpx.ReadError("the connection was lost", request=request) from stop
        return response


def _ours(request: httpx.Request) -> tuple[str, str]:
    if request.method == "POST":
        return "dispatch", "submit to the provider"
    if request.url.path.endswith("/get_result"):
        return "reconcile", "status request"
    return ("collect", "download") if request.url.path.startswith("/delivery/") else ("submit", "input image")
