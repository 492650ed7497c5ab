"""Crash points: a fuse that blows at one chosen point and then stops every further operation.

The points are in what the service is given: its database, its store, its HTTP transports, and the network that brings
requests. The code of the service is not changed.
"""

import random  # noqa: TID251 - a run is repeated by its seed
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, TypeVar

import httpx
from sqlalchemy import Connection, event

from app.errors import DatabaseUnavailable
from app.store import FolderStore
from tests.databases import OneByOne, engines
from tests.proof.crash_databases import Engine

T = TypeVar("T")

BEFORE_COMMIT, AFTER_COMMIT = "before the commit", "after the commit"
# A function may follow FROM, and `FOR UPDATE` is no change.
_READ = re.compile(r"\bFROM\s+\"?(\w+)\b(?!\s*\()")
_CHANGE = re.compile(r"\b(INSERT INTO|DELETE FROM|(?<!FOR )UPDATE)\s+\"?(\w+)")
_STEP_OF = {"idempotency": "submit", "inputs": "submit", "loop": "worker", "run_job": "worker", "outcomes": "notify"}
_SHARED = ("app.db.", "app.jobs", "app.transitions.")  # packages whose units several steps run
# The step whose unit of work runs in this thread or task.
_CURRENT_STEP: ContextVar[str | None] = ContextVar("current_step", default=None)
_ANSWER_OPEN = "dispatch"  # after its first commit only evidence shows whether the provider has the task


class Stop(BaseException):
    """The process crashed here. A BaseException, so that no handler of the service catches it."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The `number`-th time that this step reaches this place."""

    step: str
    place: str
    number: int


@dataclass
class Fuse:
    """Records the points passed, and blows at one of them; a blown fuse stops at every point."""

    at: Point | None = None
    passed: list[Point] = field(default_factory=list)
    blown: bool = False
    armed: bool = True
    answer_open: bool = False  # bytes may have left, and no answer is stored
    loses_commit_answer_of: str | None = None  # the step whose next commit gets no answer
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

    def point(self, step: str, place: str) -> None:
        if self.blown:
            raise Stop
        if not self.armed:
            return
        self._seen[step, place] += 1
        point = Point(step, place, self._seen[step, place])
        self.passed.append(point)
        if point == self.at:
            self.blown = True
            raise Stop

    def committed(self, step: str) -> None:
        """Track the two commits of dispatch: before the request is sent, and with its answer or its withdrawal."""
        if step == _ANSWER_OPEN and self.armed:
            self.answer_open = not self.answer_open
        if step == self.loses_commit_answer_of:
            self.loses_commit_answer_of = None
            raise DatabaseUnavailable("the database cannot be reached at the moment")


class FusedDatabase(OneByOne):
    """An engine with a point before each statement of a unit of work, and before and after its commit."""

    def __init__(self, inner: Engine, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse
        for engine in engines(inner):
            event.listen(engine, "before_cursor_execute", self._on_statement)
        self.dialect = inner.dialect
        self.on_jobs = inner.on_jobs
        self.on_events = inner.on_events

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        step = step_of(work, sys._getframe(1).f_globals["__name__"])

        def unit(connection: Connection) -> T:
            result = self._run(step, work, connection, *args, **kwargs)
            self._fuse.point(step, BEFORE_COMMIT)
            return result

        with self._dying():
            result = await self._inner.write(unit)
        self._fuse.committed(step)
        self._fuse.point(step, AFTER_COMMIT)
        return result

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        step = step_of(work, sys._getframe(1).f_globals["__name__"])
        with self._dying():
            return await self._inner.read(lambda connection: self._run(step, work, connection, *args, **kwargs))

    def _run(self, step: str, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self._in_step(step):
            return work(*args, **kwargs)

    @contextmanager
    def _dying(self) -> Generator[None]:
        """Replace the error of the engine by Stop: a stopped statement breaks its connection."""
        try:
            yield
        except Exception:
            if self._fuse.blown:
                raise Stop from None
            raise

    @contextmanager
    def _in_step(self, step: str) -> Generator[None]:
        token = _CURRENT_STEP.set(step)
        try:
            yield
        finally:
            _CURRENT_STEP.reset(token)

    def _on_statement(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        step = _CURRENT_STEP.get()
        if step is not None:  # None for the engine's own BEGIN, SAVEPOINT or RELEASE
            self._fuse.point(step, shortened(statement))


def sample(points: Sequence[Point], count: int | None, seed: int = 1) -> list[Point]:
    """Choose this many points, the same for the same seed; None chooses all."""
    if count is None or count >= len(points):
        return list(points)
    return random.Random(seed).sample(points, count)  # noqa: S311 - a run is repeated by its seed


def step_of(work: Callable[..., Any], caller: str) -> str:
    """Return the step of a unit of work: the module that defines it, or the module of the caller if steps share it."""
    work = work.func if isinstance(work, partial) else work
    name = work.__module__
    if name.startswith(_SHARED) and caller.startswith("app."):
        name = caller
    if name.startswith("app.web."):
        return "submit"
    module = name.rpartition(".")[2]
    return _STEP_OF.get(module, module)


def shortened(statement: str) -> str:
    """Reduce a statement to its command and table."""
    change = None if statement.lstrip().startswith("SELECT") else _CHANGE.search(statement)
    if change is not None:
        return f"{change[1]} {change[2]}"
    read = _READ.search(statement)
    return f"SELECT {read[1]}" if read else " ".join(re.findall(r"\w+", statement)[:2])


class FusedStore(FolderStore):
    """A folder store with a point before and after each file is stored or deleted."""

    fuse: Fuse

    async def put(self, key: str, source: IO[bytes]) -> None:
        step = "submit" if key.startswith("inputs/") else "collect"
        self.fuse.point(step, "file: before it is stored")
        await super().put(key, source)
        self.fuse.point(step, "file: after it is stored")

    async def remove(self, key: str) -> None:
        self.fuse.point("removals", "file: before it is deleted")
        await super().remove(key)
        self.fuse.point("removals", "file: after it is deleted")


@dataclass
class FusedTransport(httpx.AsyncBaseTransport):
    """Requests of the service, with a point before each is sent and after its response."""

    inner: httpx.AsyncBaseTransport
    fuse: Fuse

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        step, exchange = _request_of(request)
        self.fuse.point(step, f"{exchange}: before it is sent")
        response = await self.inner.handle_async_request(request)
        self.fuse.point(step, f"{exchange}: after the response")
        return response


@dataclass
class Mortal(httpx.AsyncBaseTransport):
    """Requests to the service: if the process is dead or dies, the connection is lost."""

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


def _request_of(request: httpx.Request) -> tuple[str, str]:
    if request.method == "POST":
        return "dispatch", "submit to the provider"
    if request.url.path.endswith("/get_result"):
        return "reconcile", "status request"
    return ("collect", "download") if request.url.path.startswith("/delivery/") else ("submit", "input image")
