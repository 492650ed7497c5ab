"""A world whose service can crash and restart, while the clock, the network and the provider continue.

Each life of the service has its own Resources on the same database and image folder. On PostgreSQL each life is another
worker, which takes over the jobs of the dead one when their leases have expired.
"""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path

import httpx
from fastapi import FastAPI
from sqlalchemy import func, select, update
from starlette.responses import Response

from app import callback, jobs
from app.catalog import shipped_catalog
from app.db import Connection
from app.db.tables import (
    api_keys,
    applications,
    budget_periods,
    erased_tasks,
    erasures,
    idempotency_keys,
    removals,
    results,
    tasks,
)
from app.db.tables.api_keys import NewApiKey
from app.db.tables.slots import slots
from app.db.tables.tasks import Task
from app.jobs import NewJob, Step
from app.main import create_app
from app.provider import Bfl
from app.resources import Resources
from app.rules.budget import Budget, charge, standing
from app.security.http_clients import guarded_client, provider_client
from app.security.keyring import KeyRing
from app.store import DiskReserve, Uploads
from app.telemetry import metrics
from app.twin import Rules, Twin, create_twin_app
from app.web.auth import digest_of
from app.web.feed import Feed
from app.worker import loop
from app.worker.sweep import EVERY, NO_TASK, UNRECORDED
from tests.downloads import downloads_from
from tests.pictures import picture
from tests.postgres import keep_time
from tests.proof.crash_databases import Databases, Engine, open_engine
from tests.proof.crash_points import Fuse, FusedDatabase, FusedStore, FusedTransport, Mortal, Stop
from tests.proof.crash_scenarios import PICTURE_HOST, REMOVED, USER, Later, Scenario
from tests.rows import newest_tasks
from tests.workers import OneByOneWorker
from tests.world import ADMIN_KEY, GATEWAY, RING_KEY, TWIN, FrozenClock, Network, configure, one_account

_DOWNTIME_S = 3  # downtime after a crash
_LONGEST = timedelta(hours=1)  # of one life, on the frozen clock
_IMAGE = Response(picture(64, 64), media_type="image/png")


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run: the outcome, the digest of the image, the provider's counts, and inconsistencies."""

    outcome: str
    sha256: str | None
    charges: int
    accepted: int
    wrong: tuple[str, ...] = ()


@dataclass
class CrashWorld:
    folder: Path
    database_url: str
    scenario: Scenario
    clock: FrozenClock
    network: Network
    twin: Twin
    posted: bool = False
    later: list[Later] = field(init=False)  # that has not begun
    keys: frozenset[str] = frozenset()  # of the files of the task when it had ended
    _recovered_before: float = field(default_factory=lambda: _counted("fluxhook_orphaned_tasks_recovered_total"))

    def __post_init__(self) -> None:
        self.later = list(self.scenario.later)

    async def live(self, fuse: Fuse) -> End | None:
        """Run the service from its start until every task is final; return None if it crashes before."""
        async with self._service(fuse) as (use, db):
            try:
                await self._run(use, db, fuse)
            except Stop:
                return None
            fuse.armed = False
            return await self._end(use, db)

    async def be_down(self) -> None:
        for _ in range(_DOWNTIME_S):
            self.clock.advance(1)
            await self.twin.tick()

    @asynccontextmanager
    async def _service(self, fuse: Fuse) -> AsyncGenerator[tuple[Resources, Engine]]:
        network = FusedTransport(self.network, fuse)
        db = open_engine(self.database_url)
        keep_time(db, self.clock)
        async with (
            provider_client(network) as provider_http,
            downloads_from(network, TWIN) as downloads,
            guarded_client((), network) as web,
        ):
            providers = [Bfl(provider_http, TWIN, key) for key in self.scenario.keys]
            use = self._resources(FusedDatabase(db, fuse), fuse, providers, downloads, web)
            try:
                await db.write(lambda connection: _prepare(connection, use))
                self._connect(use, fuse)
                yield use, db
            finally:
                self.network.hosts.pop("gateway", None)
                await db.close()

    def _resources(
        self,
        db: FusedDatabase,
        fuse: Fuse,
        providers: Sequence[Bfl],
        downloads: httpx.AsyncClient,
        web: httpx.AsyncClient,
    ) -> Resources:
        store = FusedStore(self.folder / "images")
        store.fuse = fuse
        spec = providers[0].spec
        callback_requested = self.scenario.callback_requested
        return Resources(
            db=db,
            callbacks=db.batcher(callback.store_batch),
            store=store,
            catalog=shipped_catalog(),
            keys=KeyRing((RING_KEY,)),
            now=self.clock,
            accounts=one_account(*providers),
            web=web,
            webhooks=web,
            results=downloads,
            result_hosts=(),
            public_url=GATEWAY if callback_requested else None,
            evidence_window=timedelta(minutes=10) + spec.callback_window if callback_requested else timedelta(),
            trust_shared_secret=True,
            retention=self.scenario.retention,
            budget=None if self.scenario.budget is None else Budget.parse(self.scenario.budget),
            scratch=self.folder,
            uploads=Uploads(self.folder, DiskReserve({})),
            disk=DiskReserve({}),
        )

    def _connect(self, use: Resources, fuse: Fuse) -> None:
        app = _app()
        app.state.use, app.state.feed = use, Feed(use.db, use.stopping)
        self.network.hosts["gateway"] = Mortal(httpx.ASGITransport(app), fuse)

    async def _run(self, use: Resources, db: Engine, fuse: Fuse) -> None:
        """Work as the worker's loop does, with a clock that jumps to the next due time."""
        until = self.clock.at + _LONGEST
        await loop.start(use)
        worker = OneByOneWorker(use)
        while self.clock.at < until:
            await self._post(fuse)
            await worker.work()
            await self.twin.tick()
            if fuse.blown:
                raise Stop
            await worker.work()
            if self.posted and await db.read(_all_final):
                began = self.clock.at
                if await self._is_complete(db) and not await self._go_on(use, db, fuse):
                    return
                until += self.clock.at - began
            await self._jump(db)

    async def _is_complete(self, db: Engine) -> bool:
        """Whether what has begun after the end of the task is complete."""
        begun = self.scenario.later[: len(self.scenario.later) - len(self.later)]
        return not begun or await db.read(_COMPLETE[begun[-1]])

    async def _go_on(self, use: Resources, db: Engine, fuse: Fuse) -> bool:
        """Begin what comes next after the end of the task. Return False if that is nothing."""
        if not self.later:
            return False
        self.keys = self.keys or await db.read(_store_keys)
        if self.later[0] is Later.USER_IS_ERASED:
            await self._erase_user(fuse)
        else:
            self.clock.at += _TIMES[self.later[0]]
            await use.db.write(jobs.enqueue, [NewJob(Step.SWEEP, NO_TASK, self.clock.at)])
        self.later.pop(0)
        return True

    async def _erase_user(self, fuse: Fuse) -> None:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(transport=self.network, base_url=GATEWAY, headers=headers) as client:
            try:
                answer = await client.delete(f"/v1/users/{USER}")
            except httpx.TransportError:
                raise Stop from None
        if fuse.blown:
            raise Stop
        assert answer.status_code in {200, 202}, answer.text  # 200: an erasure before the crash has finished

    async def _jump(self, db: Engine) -> None:
        due = [await db.read(jobs.next_due), await self.twin.tick()]
        soon = self.clock.at + timedelta(milliseconds=10)
        later = self.clock.at + timedelta(seconds=30)
        self.clock.at = max(soon, min((at for at in due if at is not None), default=later))

    async def _post(self, fuse: Fuse) -> None:
        """Post the task with an Idempotency-Key, and repeat in each round until it is accepted."""
        if self.posted:
            return
        headers = {"authorization": f"Bearer {ADMIN_KEY}", "idempotency-key": "the-only-key"}
        async with httpx.AsyncClient(transport=self.network, base_url=GATEWAY, headers=headers) as client:
            try:
                answer = await client.post("/v1/tasks", json=dict(self.scenario.asked))
            except httpx.TransportError:
                raise Stop from None
        if fuse.blown:
            raise Stop
        assert answer.status_code in {202, 409}, answer.text
        self.posted = answer.status_code == 202

    async def _end(self, use: Resources, db: Engine) -> End:
        """Run one more sweep, which must find nothing to recover, and return the end."""
        self.clock.at += UNRECORDED + EVERY
        await OneByOneWorker(use).work()
        ledger = self.twin.ledger()
        outcome, sha256, wrong = await db.read(lambda connection: _outcome(connection, self.folder / "images"))
        if outcome == REMOVED:
            wrong += [f"{key} is still stored" for key in sorted(self.keys) if (self.folder / "images" / key).exists()]
        if _counted("fluxhook_orphaned_tasks_recovered_total") != self._recovered_before:
            wrong.append("the sweep recovered a task without a job")
        if sha256 is not None and sha256 not in {task["sha256"] for task in ledger["tasks"]}:
            wrong.append("the image differs from the provider's")
        charges = sum(task["cost"] > 0 for task in ledger["tasks"])
        return End(outcome, sha256, charges, ledger["accepted"], tuple(wrong))


@asynccontextmanager
async def open_crash_world(folder: Path, databases: Databases, scenario: Scenario) -> AsyncGenerator[CrashWorld]:
    """Open a world with a migrated database, before the first start of the service."""
    database_url = await databases.fresh(folder)
    clock, network = FrozenClock(), Network()
    async with httpx.AsyncClient(transport=network) as sends:
        twin = Twin(Rules(megapixels=0.02), now=clock, send=sends, faults=scenario.faults)
        network.add("twin", create_twin_app(twin, running=False))
        network.add(PICTURE_HOST, _IMAGE)
        yield CrashWorld(folder, database_url, scenario, clock, network, twin)


@cache
def _app() -> FastAPI:
    """Return the stateless routes, shared because building them takes longer than a life of the service."""
    return create_app(nullcontext(), with_worker=False)  # type: ignore[arg-type]


def _prepare(connection: Connection, use: Resources) -> None:
    """Do what every start of the service does to the database."""
    configure(connection, use)
    api_keys.put(connection, NewApiKey("key_admin", "admin", digest_of(ADMIN_KEY), ["*"], use.now()))
    budget = None if use.budget is None else {"credits": use.budget.credits, "period": use.budget.period}
    connection.execute(update(applications.applications).values(budget=budget))
    if connection.dialect.name == "sqlite":  # on PostgreSQL another process may still answer
        idempotency_keys.remove_unanswered(connection)


def _all_final(connection: Connection) -> bool:
    return all(task.status.final for task in newest_tasks(connection, 100))


def _images_removed(connection: Connection) -> bool:
    kept = select(results.results.c.task_id).where(results.results.c.removed_at.is_(None))
    open_inputs = select(tasks.tasks.c.id).where(tasks.tasks.c.inputs_removed_at.is_(None))
    left = [connection.execute(query.limit(1)).one_or_none() for query in (kept, open_inputs)]
    return left == [None, None] and not removals.first(connection, 1)


def _task_removed(connection: Connection) -> bool:
    is_finished = all(
        erasure.finished_at for erasure in erasures.newest(connection, application_id=None, limit=9, before=None)
    )
    return not newest_tasks(connection, 1) and not removals.first(connection, 1) and is_finished


_COMPLETE = {
    Later.A_WEEK_PASSES: _images_removed,
    Later.A_MONTH_PASSES: _task_removed,
    Later.USER_IS_ERASED: _task_removed,
}
_TIMES = {Later.A_WEEK_PASSES: timedelta(days=8), Later.A_MONTH_PASSES: timedelta(days=30)}


def _store_keys(connection: Connection) -> frozenset[str]:
    """Return the store keys of all images of the task."""
    (task,) = newest_tasks(connection, 2)
    stored = results.of_tasks(connection, [task.id]).get(task.id)  # None: after some crashes the outcome is unknown
    inputs = [image.store_key for image in task.request.images]
    made = [] if stored is None else [stored.store_key, results.thumbnail_key(stored.store_key)]
    return frozenset(inputs + made)


def _outcome(connection: Connection, images: Path) -> tuple[str, str | None, list[str]]:
    """Return the outcome of the only task, the digest of its stored image, and the inconsistencies."""
    all_tasks = newest_tasks(connection, 100)
    removed = connection.execute(select(func.count()).select_from(erased_tasks.erased)).scalar_one()
    made = len(all_tasks) + removed
    wrong = [] if made == 1 else [f"one request made {made} tasks"]
    if not all(task.status.final for task in all_tasks):
        wrong.append("a task is not final")
    if connection.execute(select(func.count()).select_from(slots)).scalar_one():
        wrong.append("a slot is still taken")
    if jobs.dead_letters(connection):
        wrong.append("a job became a dead letter")
    stored = {f"inputs/{path.parent.name}/{path.name}" for path in images.glob("inputs/*/*")}
    named = {image.store_key for task in all_tasks for image in task.request.images}
    wrong += [f"no task names {key}" for key in sorted(stored - named)]
    if not all_tasks:
        return REMOVED if removed else "no task", None, wrong
    task = all_tasks[0]
    result = results.of_tasks(connection, [task.id]).get(task.id)
    if result is not None and _sha256(images / result.store_key) != result.sha256:
        wrong.append("the stored file differs from its digest")
    outcome = f"failed: {task.failure}" if task.failure else str(task.status)
    wrong += _wrong_budgets(connection, task)
    return outcome, result.sha256 if result else None, wrong


def _wrong_budgets(connection: Connection, task: Task) -> list[str]:
    """Compare what each budget counts with what its only task counts with."""
    counts = charge(task.estimated_cost or 0, task.cost, standing(task.status, task.money_spent))
    found = connection.execute(select(budget_periods.budget_periods)).all()
    return [f"the budget {row.owner} counts {row.spent}, not {counts}" for row in found if row.spent != counts]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _counted(name: str) -> float:
    return metrics.REGISTRY.get_sample_value(name) or 0.0
