"""One process of the service whose calls to the outside wait until a test ends them.

The steps and the worker are real; the database is SQLite in memory on one connection. Any order of answers, callbacks,
API requests and crashes can be played, at hundreds of steps per second.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Any, TypeVar

import httpx
from sqlalchemy import Connection, Dialect, create_engine, event, text
from sqlalchemy.pool import StaticPool

from app import callback, jobs
from app.catalog import shipped_catalog
from app.db.migrations import migrate
from app.db.tables import provider_accounts, tasks
from app.db.tables.provider_accounts import ConfiguredAccount
from app.errors import DatabaseUnavailable
from app.jobs import Step
from app.provider import ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.bfl import SPEC
from app.resources import Resources
from app.security.keyring import KeyRing
from app.store import DiskReserve, Missing, Uploads
from app.submit import submit
from app.worker import loop
from app.worker.run_job import run_job
from tests.databases import OneByOne
from tests.downloads import downloads_from
from tests.requests import task_params
from tests.rows import WORKER, newest_tasks
from tests.world import GATEWAY, RING_KEY, FrozenClock, one_account

T = TypeVar("T")

# Far fewer slots than a provider has, so that even a few tasks have to queue.
LIMITS = {"account": 3, "flux-kontext-max": 1}

_WATCH = """
create temp table moves (number integer primary key, task_id text, was text, became text);
create temp trigger watch after update of status on tasks when old.status <> new.status begin
    insert into moves (task_id, was, became) values (new.id, old.status, new.status);
end;
"""


class Killed(BaseException):
    """The process was killed. A BaseException, so that no step catches it."""


@dataclass(eq=False)
class Call:
    """A call to the outside that waits for its answer."""

    kind: str  # submit, fetch, download
    task_id: str
    attempt_id: str
    about: str  # the prompt, the polled provider id, or the link
    future: "asyncio.Future[Any]"
    by: "asyncio.Task[Any]"


class Inline(OneByOne):
    """A database that runs each unit of work inline, can kill the process before or after a commit, and can lose the
    answer to a commit.
    """

    def __init__(self) -> None:
        self._engine = create_engine("sqlite://", creator=_copy, poolclass=StaticPool)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        self._connection = self._engine.connect()
        self.dead = False
        self.dies_at: tuple[int, bool] | None = None  # the number of writes before it, and whether its write commits
        self.loses_answer_to: str | None = None  # the name of a unit; the answer to its next commit is lost

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        committed = self._count_down()
        if self.dead and not committed:
            raise Killed
        result = self.now(work, *args, **kwargs)
        if self.dead:
            raise Killed
        if getattr(work, "__name__", "") == self.loses_answer_to:
            self.loses_answer_to = None
            raise DatabaseUnavailable("the database cannot be reached at the moment")
        return result

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self.dead:
            raise Killed
        return self.now(work, *args, **kwargs)

    def now(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self._connection.begin():
            return work(self._connection, *args, **kwargs)

    def on_jobs(self, listener: Callable[[], None], claimer: object | None = None) -> None:
        """Ignored: the test itself runs the worker."""

    def on_events(self, listener: Callable[[], None]) -> None:
        """Ignored: the feed has no listener."""

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def _count_down(self) -> bool:
        """Count this write down; return whether it is committed, even if the process dies at it."""
        if self.dead or self.dies_at is None:
            return not self.dead
        left, committed = self.dies_at
        self.dies_at = (left - 1, committed)
        self.dead = left == 0
        return committed or not self.dead


@lru_cache
def _template() -> bytes:
    raw = _open()
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        migrate.upgrade(connection)
    migrated = raw.serialize()
    engine.dispose()
    return migrated


def _copy() -> sqlite3.Connection:
    raw = _open()
    raw.deserialize(_template())
    raw.executescript(_WATCH)
    return raw


def _open() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


class Memory:
    """A store in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    async def put(self, key: str, source: IO[bytes]) -> None:
        source.seek(0)
        self._kept[key] = source.read()

    async def size(self, key: str) -> int:
        if key not in self._kept:
            raise Missing(key)
        return len(self._kept[key])

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        yield self._kept[key][start:end]

    async def remove(self, key: str) -> None:
        self._kept.pop(key, None)

    async def check(self) -> None:
        return


@dataclass
class Outside(httpx.AsyncBaseTransport):
    """The provider and its links. `sent` is called at each submission, before the answer."""

    db: Inline
    sent: Callable[[str, str], None]
    calls: list[Call] = field(default_factory=list)
    parked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def spec(self) -> ProviderSpec:
        return SPEC

    async def submit(self, order: SubmitRequest) -> ProviderResponse:
        task = self._task("prompt", str(order.params["prompt"]))
        self.sent(task.id, task.attempt_id)
        answer: ProviderResponse = await self._wait("submit", task, str(order.params["prompt"]))
        return answer

    async def fetch(self, reference: Reference) -> ProviderResponse:
        answer: ProviderResponse = await self._wait(
            "fetch", self._task("provider_id", reference.provider_id), reference.provider_id
        )
        return answer

    async def credits(self) -> ProviderResponse:
        raise NotImplementedError

    async def reachable(self) -> str | None:
        return None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await self._wait(
            "download", self._task("sample_url", str(request.url)), str(request.url)
        )
        return response

    async def _wait(self, kind: str, task: tasks.Task, about: str) -> Any:
        by = asyncio.current_task()
        assert by is not None
        call = Call(kind, task.id, task.attempt_id, about, asyncio.get_running_loop().create_future(), by)
        self.calls.append(call)
        self.parked.set()
        return await call.future

    def _task(self, by: str, value: str) -> tasks.Task:
        """Find the task of a call: prompts are unique to a task, provider ids and links to an attempt."""
        known = self.db.now(lambda connection: newest_tasks(connection, 1000))
        if by == "prompt":
            return next(task for task in known if task.request.prompt == value)
        return next(task for task in known if task.id in value)


class Process:
    """The service between two crashes, and what survives them: the database, the clock, the provider."""

    def __init__(
        self, sent: Callable[[str, str], None], *, callback_requested: bool, trust_shared_secret: bool
    ) -> None:
        self.clock = FrozenClock()
        self.db = Inline()
        self.outside = Outside(self.db, sent)
        self._runner = asyncio.Runner()
        client = downloads_from(self.outside, "https://delivery.eu1.bfl.ai")  # no look-ups: they run in threads
        self._clients = [client]
        self.use = Resources(
            db=self.db,
            callbacks=self.db.batcher(callback.store_batch),
            store=Memory(),
            catalog=shipped_catalog(),
            keys=KeyRing((RING_KEY,)),
            now=self.clock,
            accounts=one_account(self.outside, url="https://api.bfl.ai"),
            web=client,
            webhooks=client,
            results=client,
            result_hosts=(),
            public_url=GATEWAY if callback_requested else None,
            trust_shared_secret=trust_shared_secret,
            evidence_window=timedelta(minutes=10) + SPEC.callback_window if callback_requested else timedelta(),
            scratch=Path(gettempdir()),
            uploads=Uploads(Path(gettempdir()), DiskReserve({})),
            disk=DiskReserve({}),
        )
        self._running: set[asyncio.Task[Any]] = set()
        self.db.now(lambda connection: provider_accounts.put(connection, ConfiguredAccount("account", "bfl", LIMITS)))
        self.restart()

    def restart(self) -> None:
        """Kill the process and start it again."""
        self._runner.run(self._kill())
        self.outside.calls.clear()
        self.db.dead, self.db.dies_at, self.db.loses_answer_to = False, None, None
        self.play(loop.start(self.use))

    def play(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Run until it ends or waits for the outside; return None if it waits or was killed."""
        return self._runner.run(self._until_quiet(work))

    def answer(self, call: Call, answer: Any) -> None:
        """End a call to the outside, and run its task until it ends or waits again."""
        self.outside.calls.remove(call)
        if isinstance(answer, Exception):
            call.future.set_exception(answer)
        else:
            call.future.set_result(answer)
        self._runner.run(self._quiet(call.by))

    def post(self, prompt: str, **params: Any) -> None:
        self.play(submit(self.use, params.pop("key_id"), task_params(prompt, **params), {}))

    def work(self, steps: tuple[Step, ...] = tuple(Step)) -> bool:
        """Run one due job of these steps; return False if there is none."""
        try:
            claimed = self._runner.run(self._claim(steps))
        except Killed:
            return False
        for job in claimed:
            self.play(run_job(self.use, job))
        return bool(claimed)

    def moves(self) -> list[tuple[str, str, str]]:
        """Return the moves of all tasks since the last call."""

        def take(connection: Connection) -> list[tuple[str, str, str]]:
            found = connection.execute(text("select task_id, was, became from moves order by number")).all()
            connection.execute(text("delete from moves"))
            return [(row[0], row[1], row[2]) for row in found]

        return self.db.now(take)

    def has_moved(self) -> bool:
        """Whether a task has moved since the last call of `moves`."""
        return self.db.now(lambda connection: connection.execute(text("select 1 from moves")).first() is not None)

    def close(self) -> None:
        self._runner.run(self._kill())
        for client in self._clients:
            self._runner.run(client.aclose())
        self._runner.close()
        self.db.close()

    async def _claim(self, steps: tuple[Step, ...]) -> list[jobs.Job]:
        return await self.db.write(lambda connection: jobs.claim(connection, WORKER, self.clock(), 1, steps))

    async def _until_quiet(self, work: Coroutine[Any, Any, T]) -> T | None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        await self._quiet(task)
        return task.result() if task.done() and task.exception() is None else None

    async def _quiet(self, task: "asyncio.Task[Any]") -> None:
        """Wait until this task ends or waits for the outside."""
        self.outside.parked.clear()
        parked = asyncio.ensure_future(self.outside.parked.wait())
        await asyncio.wait({task, parked}, return_when=asyncio.FIRST_COMPLETED)
        parked.cancel()
        await asyncio.gather(parked, return_exceptions=True)
        if task.done():
            self._running.discard(task)
            error = task.exception()
            if error is not None and not isinstance(error, Killed):
                raise error

    async def _kill(self) -> None:
        self.db.dead = True
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
