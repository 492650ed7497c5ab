"""Promises about cost: numbers of statements and reads, query plans, memory, loaded modules.

None of this is behaviour: a change that only makes something more expensive fails here and in no other test, so that
the price becomes a decision. No test here measures time.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, cast
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import httpx
import pytest
from sqlalchemy import text

from app import clock, ids, jobs
from app.cli.process import server
from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.queries import overview, queue, retention, task_list
from app.db.queries.newest_tasks import latest_durations
from app.db.queries.retention import Group
from app.db.queries.task_list import TaskFilter
from app.db.tables import api_keys, deliveries, tasks
from app.db.tables.evidence import Evidence
from app.jobs import NewJob, Step
from app.main import create_app
from app.rules.retention import DataClass, Retention
from app.rules.task import Status
from app.security.keyring import KeyRing
from app.settle import settle
from app.web.feed import Feed
from app.worker import loop
from app.worker.retention import prune
from benchmarks import growth, hot_paths
from benchmarks.hot_paths import Undone
from benchmarks.waiting import MODEL, add_queued, crowds
from tests.databases import Gate, statements
from tests.db.engine.test_batches import MIB, Writing, after_the_first
from tests.db.queries.test_queue import steps_of
from tests.plans import GROWN_TASKS, captured_statements, full_scans, rows_passed, run_scenario
from tests.postgres import Postgres, set_time
from tests.receivers import ended, receiver
from tests.rows import START, newest_tasks, put_account, put_sent_task, take_slot
from tests.sockets import listening, serving, until
from tests.test_settle import POLL_AFTER, READY, evidence_of, polled, result
from tests.web.routes.test_callback_receiver import Called, submitted
from tests.web.test_feed import Counted, heard, planned, ready
from tests.world import RING_KEY, World, open_world

STORED = TaskFilter(statuses=(Status.STORED,))
GROWN_APP = f"app_{0:037}"  # has a fifth of the grown tasks
WRONG = (b"x-bfl-signature", b"sha256=" + b"0" * 64)

# Query plans: on both engines, a database that has grown answers from indexes.


@pytest.fixture(scope="module")
def grown_sqlite(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("grown") / "fluxhook.db"
    shutil.copy(sqlite_template, path)
    asyncio.run(growth.grow(f"sqlite:///{path}", GROWN_TASKS))
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def grown_postgres(postgres: Postgres, postgres_template: str) -> Generator[str]:
    name = f"test_{uuid4().hex}"

    async def make() -> str:
        url = await postgres.create(name, postgres_template)
        await postgres.use_clock(name)
        await growth.grow(url, GROWN_TASKS)
        async with open_database(url) as database:
            await database.write(multiply)
        return url

    yield asyncio.run(make())
    asyncio.run(postgres.drop(name))


def multiply(connection: Connection) -> None:
    """Make ten deliveries of one and a tag for each task: few grown tasks have any, and the plans need many rows."""
    columns = ", ".join(column.name for column in deliveries.deliveries.columns if column.name != "id")
    for digit in range(1, 10):
        copied = f"SELECT overlay(id placing '{digit}' from 41), {columns} FROM deliveries WHERE id LIKE '%00'"  # noqa: S608
        connection.execute(text(f"INSERT INTO deliveries (id, {columns}) {copied}"))
    tags = "INSERT INTO task_tags (application_id, tag, task_id) SELECT 'app_admin', substr(id, 6, 32), id FROM tasks"
    connection.execute(text(tags))
    connection.exec_driver_sql("ANALYZE")


@pytest.fixture(params=["sqlite", "postgres"])
def grown_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"grown_{request.param}")
    return url


@pytest.fixture
async def grown(grown_url: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world today, on a database with months behind it."""
    async with open_world(tmp_path, grown_url) as opened:
        opened.clock.at = clock.utc_now()
        yield opened


async def test_every_statement_of_the_scenario_uses_an_index(grown: World) -> None:
    with captured_statements(grown.use.db) as sent:
        await run_scenario(grown)

    assert len(sent) > 50
    assert await full_scans(grown.use.db, sent) == []


async def test_every_statement_of_the_hot_paths_uses_an_index(grown: World) -> None:
    now, db = grown.clock(), grown.use.db
    known = [task.id for task in await db.read(lambda connection: newest_tasks(connection, 5))]
    group = next(await db.write(lambda connection: hot_paths.prepare(connection, now, 1)))
    with captured_statements(db) as sent:
        for path in hot_paths.reads(known, now).values():
            await db.read(path)
        for path in hot_paths.writes(now).values():
            with suppress(Undone):
                await db.write(path)
        await db.write(lambda connection: hot_paths.take(connection, group))
    await db.write(lambda connection: hot_paths.clean(connection, now))

    assert await full_scans(db, sent) == []


@pytest.mark.parametrize(
    "full_scan",
    [
        "SELECT id FROM tasks WHERE failure_detail = 'moderated'",
        "SELECT count(*) FROM evidence WHERE verdict = 'forged'",
        "SELECT tasks.id FROM tasks JOIN results ON results.task_id = tasks.id WHERE results.bytes < 5",
        "UPDATE submissions SET cost = 0 WHERE ring_key = 'none'",
        "SELECT id FROM tasks WHERE seed = 'none' ORDER BY id DESC LIMIT 1",
    ],
)
async def test_a_statement_that_reads_a_whole_table_is_found(grown: World, full_scan: str) -> None:
    with captured_statements(grown.use.db) as sent:
        await grown.use.db.write(lambda connection: connection.execute(text(full_scan)))

    assert await full_scans(grown.use.db, sent) != []


async def test_the_look_for_due_tasks_reads_the_index_of_ended_tasks_in_its_order(grown: World) -> None:
    """In SQLite, a search of an index by status alone sorts all ended tasks, once for each application."""
    db, groups = grown.use.db, [Group(data, grown.clock(), (), excluded=True) for data in DataClass]
    with captured_statements(db) as sent:
        for group in groups:
            await db.read(retention.due, group)
    (statement,) = (statement for statement in sent if "retention_progress" in statement)
    explain = "EXPLAIN QUERY PLAN" if db.dialect.name == "sqlite" else "EXPLAIN"
    plan = await db.read(lambda connection: connection.exec_driver_sql(f"{explain} {statement}", sent[statement]).all())

    assert "ix_tasks_ended" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


@pytest.mark.parametrize(
    "find",
    [
        pytest.param(lambda connection, _: latest_durations(connection, MODEL, 20), id="durations"),
        pytest.param(lambda connection, _: task_list.page(connection, STORED, 20), id="stored tasks"),
        pytest.param(
            lambda connection, _: task_list.page(connection, replace(STORED, application_id="app_0"), 20),
            id="of an application",
        ),
        pytest.param(
            lambda connection, _: task_list.page(connection, replace(STORED, model=MODEL), 20), id="of a model"
        ),
        pytest.param(lambda connection, since: overview.failures(connection, None, since), id="failures"),
        pytest.param(
            lambda connection, since: task_list.page(
                connection, replace(STORED, since=ids.first_at("task", since)), 20
            ),
            id="stored tasks of an hour",
        ),
    ],
)
async def test_the_newest_tasks_of_a_state_are_found_behind_a_long_queue(
    grown: World, find: Callable[[Connection, datetime], object]
) -> None:
    """PostgreSQL would follow the primary key, past all tasks that wait, because it expects to find enough soon."""
    passed: list[int] = []
    since = grown.clock() - timedelta(hours=1)

    def unit(connection: Connection) -> None:
        add_queued(connection, "k1", crowds("account", "other")[0], 3000)
        connection.exec_driver_sql("ANALYZE")
        if connection.dialect.name == "sqlite":
            passed.append(
                steps_of(connection, lambda: find(connection, since))[0] // 50
            )  # steps of a task that is read
        else:
            with captured_statements(grown.use.db) as sent:
                find(connection, since)
            passed.extend(rows_passed(connection, statement, sent[statement]) for statement in sent)
        raise Undone

    with suppress(Undone):
        await grown.use.db.write(unit)

    assert passed != []
    assert max(passed) < 1000


async def test_the_oldest_task_of_a_queue_is_found_in_the_index_of_queues(grown: World) -> None:
    db, plans = grown.use.db, list[str]()

    def unit(connection: Connection) -> None:
        for crowd in crowds("account", "other"):
            add_queued(connection, "k1", crowd, 1500)
        connection.exec_driver_sql("ANALYZE")
        with captured_statements(db) as sent:
            queue.queued(connection)
        explain = "EXPLAIN QUERY PLAN" if db.dialect.name == "sqlite" else "EXPLAIN"
        ((statement, parameters),) = sent.items()
        plans.append(str(connection.exec_driver_sql(f"{explain} {statement}", parameters).all()))
        raise Undone

    with suppress(Undone):
        await db.write(unit)

    assert "ix_tasks_by_queue" in plans[0]


async def test_open_tasks_are_counted_from_the_index_without_reading_final_ones(world: World) -> None:
    def plan(connection: Connection) -> str:
        with statements(world.use.db) as seen:
            tasks.count_open(connection)
        query = seen[-1].replace("?", "'queued'")
        return "\n".join(row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")))

    found = await world.use.db.read(plan)

    assert "SEARCH tasks USING COVERING INDEX ix_tasks_status_id (status=?)" in found


_ROWS_READ = "SELECT sum(idx_tup_fetch + seq_tup_read) FROM pg_stat_xact_user_tables WHERE relname = 'pgqueuer'"


@pytest.mark.parametrize("analyzed", [True, False])
async def test_claiming_a_job_does_not_read_a_hundred_thousand_jobs_that_are_not_due(
    postgres_url: str, analyzed: bool
) -> None:
    def park(connection: Connection) -> None:
        connection.execute(
            text("""
                INSERT INTO pgqueuer (priority, execute_after, status, entrypoint, dedupe_key, payload)
                SELECT -200000000 - number, '2036-01-01'::timestamptz + number * interval '1 second', 'queued',
                    'collect', 'collect:parked' || number, 'parked'
                FROM generate_series(1, 100000) AS number
            """)
        )
        if analyzed:
            connection.execute(text("ANALYZE pgqueuer"))

    def look(connection: Connection) -> int:
        set_time(connection, START)
        before = connection.execute(text(_ROWS_READ)).scalar_one() or 0
        jobs.next_due(connection)
        for job in jobs.claim(connection, "1" * 32, START, 8, [Step.COLLECT]):
            jobs.finish(connection, job)
        return int(connection.execute(text(_ROWS_READ)).scalar_one() - before)

    async with open_database(postgres_url) as database:
        await database.write(park)
        rows_read = []
        for _ in range(10):  # PostgreSQL may switch to a generic plan at the sixth execution
            await database.write(lambda connection: jobs.enqueue(connection, [NewJob(Step.COLLECT, "task_1", START)]))
            rows_read.append(await database.write(look))

    assert max(rows_read) < 100


# Statements: the number for a unit of work, and for callbacks without proof.


async def settling(database: Database, group: Sequence[Evidence]) -> list[str]:
    """Settle a group of evidence and return the statements that were sent."""
    with statements(database) as seen:
        await database.write(lambda connection: settle(connection, group, poll_after=POLL_AFTER))
    return seen


async def test_settling_takes_the_same_number_of_statements_for_any_batch_size(database: Database) -> None:
    sizes = (1, 2, 100)

    def prepare(connection: Connection) -> None:
        put_account(connection, account=200)
        for size in sizes:
            for number in range(size):
                put_sent_task(connection, f"{size}_{number}")
                take_slot(connection, f"{size}_{number}", size + number)

    await database.write(prepare)
    counts = []
    for size in sizes:
        group = [evidence_of(READY, f"{size}_{number}") for number in range(size)]
        counts.append(len(await settling(database, group)))

    assert len(set(counts)) == 1
    assert counts[0] <= (
        14 if database.dialect.name == "postgresql" else 13
    )  # PostgreSQL inserts a job and then schedules it


async def test_only_callbacks_with_a_better_link_are_looked_up_among_stored_ones(database: Database) -> None:
    await database.write(put_sent_task)
    await settling(database, [evidence_of(READY)])

    async def looks(group: Sequence[Evidence]) -> int:
        return sum("evidence.digest = " in statement for statement in await settling(database, group))

    assert await looks([evidence_of(READY), evidence_of(result(2, 5)), polled(result(3, 20))]) == 0
    assert await looks([evidence_of(result(number, 20 + number)) for number in range(9)]) == 1


async def test_pruning_does_not_read_a_backlog_of_waiting_deliveries(each_world: World) -> None:
    use = replace(each_world.use, retention=Retention(evidence=timedelta(days=30)))
    receiver(each_world, 500)

    async def takes() -> int:
        """The fewest statements of three rounds: what the process does at intervals falls into some."""
        counts = []
        for _ in range(3):
            with statements(use.db) as seen:
                await prune(use, batch=1)
            counts.append(len(seen))
        return min(counts)

    await ended(each_world)
    each_world.clock.advance(31 * 86400)
    few = await takes()
    for _ in range(3):
        await ended(each_world)
    # A paused one would not keep them.
    await use.db.write(lambda connection: connection.exec_driver_sql("UPDATE endpoints SET state = 'active'").rowcount)
    each_world.clock.advance(31 * 86400)
    await prune(use)
    many = await takes()

    def count(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM deliveries WHERE state = 'waiting'").scalar_one())

    assert await use.db.read(count) == 4
    assert many <= few


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an application on a socket, where callbacks take the fast path, and yield a client."""
    bound, address = listening()
    async with serving(app, bound), httpx.AsyncClient(base_url=address, timeout=120) as outsider:
        yield outsider


async def _use_of_key_is_written(world: World) -> bool:
    key = await world.use.db.read(api_keys.get, api_keys.ADMIN_ID)
    return key is not None and key.last_used_at is not None


@pytest.fixture(params=["short", "application"])
async def called(request: pytest.FixtureRequest, world: World) -> AsyncGenerator[Called]:
    """A submitted task whose callbacks arrive over a socket of the server, or directly at the ASGI application."""
    called = await submitted(world)
    await until(partial(_use_of_key_is_written, world))  # a moment after the request that posted the task
    if request.param == "application":
        yield called
        return
    async with served(create_app(nullcontext(world.use), with_worker=False)) as world.outsider:
        yield called


async def test_forged_callbacks_after_the_tenth_cause_no_statement(called: Called) -> None:
    with statements(called.world.use.db) as first:
        for number in range(10):
            await called.call(b'{"n": %d}' % number, WRONG)
        await called.call_signed(called.body())  # written after the forged ones
    with statements(called.world.use.db) as after:
        for number in range(10, 60):
            await called.call(b'{"n": %d}' % number, WRONG)

    assert any("evidence" in statement for statement in first)
    assert after == []


async def test_callbacks_to_unknown_addresses_cause_no_statement(called: Called) -> None:
    start = called.path.rpartition("/")[0]
    with statements(called.world.use.db) as seen:
        for number in range(20):
            await called.call(called.body(), WRONG, path=f"{start}/guess{number}")
            await called.call(called.body(), path=f"/callbacks/sub_{number:037}/guess")

    assert seen == []


class PathRecorder:
    """An ASGI application that records the requested paths."""

    def __init__(self, app: Any) -> None:
        self.state = app.state
        self.paths: list[str] = []
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.paths.append(scope["path"])
        await self._app(scope, receive, send)


async def test_usual_callbacks_do_not_reach_the_asgi_application(world: World) -> None:
    called, app = await submitted(world), PathRecorder(create_app(nullcontext(world.use), with_worker=False))
    async with served(app) as world.outsider:
        answers = [
            await called.call_signed(called.body()),
            await called.call(called.body()),
            await called.call(called.body(), WRONG),
            await called.call_signed(called.body()),
            await called.call(called.body(), path=called.path + "x"),
        ]
        await world.outsider.get("/healthz")

    assert [answer.status_code for answer in answers] == [200, 200, 401, 200, 404]
    assert app.paths == ["/healthz"]


async def test_waiting_for_a_task_reads_the_database_only_after_an_event(world: World) -> None:
    called = await submitted(world)
    with statements(world.use.db) as seen:
        answer = await world.api.get(f"/v1/tasks/{called.task_id}", headers={"prefer": "wait=1"})

    assert answer.json()["status"] == "submitted"
    # The API key, the task, the end of the feed, the task again, the feed's reader, and the task a last time.
    assert len(seen) <= 12


# Reads of the feed


async def is_idle(feed: Feed) -> bool:
    return not feed.is_reading


async def test_a_thousand_listeners_cause_as_many_reads_as_one(database: Database) -> None:
    await database.write(planned(1))
    counted = Counted(database)

    async def reads_for(listeners: int) -> int:
        async with AsyncExitStack() as stack, Feed(counted, asyncio.Event()) as feed:
            all_listeners = [await stack.enter_async_context(feed.listen(None)) for _ in range(listeners)]
            waiting = [asyncio.create_task(heard(listener, 1)) for listener in all_listeners]
            await asyncio.sleep(0)
            before = counted.reads
            await database.write(ready(0))
            assert await asyncio.gather(*waiting) == [["task_0"]] * listeners
            return counted.reads - before

    await reads_for(1)
    # The read that finds the event, and one already in progress; PostgreSQL repeats reads until the event is settled.
    assert await reads_for(1000) <= 20


async def test_the_feed_is_not_read_without_listeners(database: Database) -> None:
    await database.write(planned(1))
    counted = Counted(database)
    async with Feed(counted, asyncio.Event()) as feed:
        await database.write(ready(0))
        assert counted.reads == 0

        async with feed.listen(None):
            pass
        await until(partial(is_idle, feed))
        after = counted.reads
        await database.write(ready(0))

        assert counted.reads == after
        assert feed.listeners == 0


# Batches: bounds for how long the first write of a batch waits for the last


async def test_a_batch_has_a_maximum_number_of_writes(database: Database) -> None:
    work = Writing(database, gate=(gate := Gate()))
    names = [f"{number:04}" for number in range(600)]
    await after_the_first(work, gate, names)

    most = 64 if database.dialect.name == "sqlite" else 512
    assert work.batches == [["first"], *(names[first : first + most] for first in range(0, len(names), most))]


async def test_a_batch_has_a_maximum_size_in_bytes(database: Database) -> None:
    work = Writing(database, gate=(gate := Gate()))
    await after_the_first(work, gate, "abcde", size=5 * MIB)

    assert work.batches == [["first"], ["a", "b"], ["c", "d"], ["e"]]


# The time for a graceful stop, which the README promises and containers rely on


async def test_a_graceful_stop_takes_less_than_ten_seconds(world: World) -> None:
    serving_for = server(create_app(nullcontext(world.use)), "127.0.0.1", 0).config.timeout_graceful_shutdown
    working_for: timedelta = signature(loop.run).parameters["grace"].default

    assert serving_for is not None
    assert max(serving_for, working_for.total_seconds()) < 10


# Memory


def remembered(work: Callable[[], None]) -> int:
    """Return the number of bytes that `work` allocates and that are still in use after it."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def guess(ring: KeyRing, names: Iterable[str]) -> None:
    for name in names:
        assert ring.prove_token(name, "x") is None


def test_the_cache_for_guessed_addresses_is_bounded() -> None:
    ring = KeyRing((RING_KEY,))
    guess(ring, (f"sub_before_{number}" for number in range(5000)))
    flood = (f"sub_flood_{number}" for number in range(10_000))

    assert remembered(partial(guess, ring, flood)) < 1_500_000


def test_guessed_addresses_do_not_evict_a_proof_in_use() -> None:
    ring = KeyRing((RING_KEY,))
    proof = ring.callback_proof("sub_1", ring.newest)
    guess(ring, (f"sub_flood_{number}" for number in range(5000)))

    assert ring.callback_proof("sub_1", ring.newest) is proof


def test_an_address_longer_than_any_real_one_is_not_cached() -> None:
    names = (f"{number}".zfill(100_000) for number in range(50))

    assert remembered(partial(guess, KeyRing((RING_KEY,)), names)) < 1_000_000


# Routes


def test_a_request_looks_for_its_route_in_one_list() -> None:
    app = create_app(nullcontext(cast("Any", None)), with_worker=False)

    # FastAPI builds the routes of an included router a second time at the first request, and searches them twice.
    assert [route for route in app.routes if not hasattr(route, "path")] == []


# Modules that a command loads

# Modules that the service needs only with some settings, or never.
_HEAVY = (
    "alembic",
    "asyncpg",
    "obstore",
    "app.twin",
    "app.cli.demo",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "pgqueuer",
)
_LOADED = "import json, sys; from app.cli import commands; commands({!r}); print(json.dumps(list(sys.modules)))"


def loaded_for(command: str) -> list[str]:
    """Return the modules that a process has loaded before it runs this command."""
    modules: list[str] = printed_by(_LOADED.format(command))
    return modules


def printed_by(program: str) -> Any:
    """Return the last line that this program prints, read as JSON."""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - runs this interpreter
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("command", ["serve", "work"])
def test_the_service_starts_without_modules_that_it_does_not_need(command: str) -> None:
    unused = (*_HEAVY, "pygments", "rich", "sqlalchemy.orm")

    assert [name for name in loaded_for(command) if name.startswith(unused)] == []


def test_the_engine_of_postgresql_is_loaded_without_the_orm() -> None:
    loading = "import json, sys, app.db.engine.postgres; print(json.dumps(list(sys.modules)))"

    assert [name for name in printed_by(loading) if name.startswith("sqlalchemy.orm")] == []


def test_modules_of_a_command_are_excluded_from_garbage_collection() -> None:
    counting = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count()))"

    assert printed_by(f"{counting}; sys.argv = ['fluxhook', 'version']; from app.cli import main; main()") > 0


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version_is_printed_without_loading_any_command(argument: str) -> None:
    assert [name for name in loaded_for(argument) if name.startswith(("app.cli.", "sqlalchemy", "httpx"))] == []


def test_a_client_command_does_not_load_the_service() -> None:
    service_modules = ("sqlalchemy", "fastapi", "PIL", *_HEAVY)

    assert [name for name in loaded_for("watch") if name.startswith(service_modules)] == []
