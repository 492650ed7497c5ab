"""What the house asks of a database that has grown is answered by indexes, on both engines.

Statements are not listed here: they are caught on their way to the database while a whole story runs, and then
explained. A new one is covered by running.
"""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from sqlalchemy import Connection, Engine, event, text

from app import clock, ids
from app.bench import growth, hot_paths
from app.bench.hot_paths import Undone
from app.provider.twin import Faults
from app.record import deliveries, endpoints, queue, retention, tasks
from app.record.database import Database, open_database
from app.sweep import NO_TASK, sweep
from app.task import Status
from tests.postgres import Postgres
from tests.world import World, open_world

GROWING = {"tasks", "submissions", "evidence", "events", "results", "deliveries", "delivery_attempts", "downloads"}
TASKS = 20_000  # so many that an index is worth more to PostgreSQL than to read the whole

_SOON = 100.0  # in PostgreSQL's units of cost; to read a whole table costs thousands

Sent = dict[str, Any]  # statements, and the parameters that each had first


@pytest.fixture(scope="module")
def grown_sqlite(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("grown") / "fluxhook.db"
    shutil.copy(sqlite_template, path)
    asyncio.run(growth.grow(f"sqlite:///{path}", TASKS))
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def grown_postgres(postgres: Postgres, postgres_template: str) -> Generator[str]:
    name = f"test_{uuid4().hex}"

    async def make() -> str:
        url = await postgres.create(name, postgres_template)
        await postgres.use_clock(name)
        await growth.grow(url, TASKS)
        async with open_database(url) as database:
            await database.write(multiply)
        return url

    yield asyncio.run(make())
    asyncio.run(postgres.drop(name))


def multiply(connection: Connection) -> None:
    """Few tasks are told of: have ten times as many deliveries, for the same reason."""
    columns = ", ".join(column.name for column in deliveries.deliveries.columns if column.name != "id")
    for digit in range(1, 10):
        copied = f"SELECT overlay(id placing '{digit}' from 41), {columns} FROM deliveries WHERE id LIKE '%00'"  # noqa: S608
        connection.execute(text(f"INSERT INTO deliveries (id, {columns}) {copied}"))
    connection.exec_driver_sql("ANALYZE")


@pytest.fixture(params=["sqlite", "postgres"])
def grown_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"grown_{request.param}")
    return url


@pytest.fixture
async def world(grown_url: str, tmp_path: Path) -> AsyncGenerator[World]:
    """A world today, on a database with months behind it."""
    async with open_world(tmp_path, grown_url) as opened:
        opened.clock.at = clock.utc_now()
        yield opened


async def test_whatever_a_story_asks_is_found_by_an_index(world: World) -> None:
    with caught(world.use.db) as sent:
        await tell(world)

    assert len(sent) > 50
    assert await offences(world.use.db, sent) == []


async def test_the_hot_paths_are_found_by_an_index(world: World) -> None:
    now, db = world.clock(), world.use.db
    known = [task.id for task in await db.read(lambda connection: tasks.newest(connection, limit=5))]
    group = next(await db.write(lambda connection: hot_paths.prepare(connection, now, 1)))
    with caught(db) as sent:
        for path in hot_paths.reads(known, now).values():
            await db.read(path)
        for path in hot_paths.writes(now).values():
            with suppress(Undone):
                await db.write(path)
        await db.write(lambda connection: hot_paths.take(connection, group))
    await db.write(lambda connection: hot_paths.clean(connection, now))

    assert await offences(db, sent) == []


@pytest.mark.parametrize(
    "careless",
    [
        "SELECT id FROM tasks WHERE failure_detail = 'moderated'",
        "SELECT count(*) FROM evidence WHERE verdict = 'forged'",
        "SELECT tasks.id FROM tasks JOIN results ON results.task_id = tasks.id WHERE results.bytes < 5",
        "UPDATE submissions SET cost = 0 WHERE ring_key = 'none'",
        "SELECT id FROM tasks WHERE failure_detail = 'none' ORDER BY id DESC LIMIT 1",
    ],
)
async def test_a_statement_that_reads_a_whole_table_is_caught(world: World, careless: str) -> None:
    with caught(world.use.db) as sent:
        await world.use.db.write(lambda connection: connection.execute(text(careless)))

    assert await offences(world.use.db, sent) != []


async def tell(world: World) -> None:
    """What happens in a life: tasks that end in every way, whoever looks at them, upkeep."""
    hook = {"webhook_url": "https://app.example.com/hooks/1", "webhook_events": ["submitted"]}
    await world.post(**hook)
    await world.work()
    await world.go_on(10)
    for faults in (Faults(unsigned_callback=1), Faults(lose_answer_after=1, unsigned_callback=1), Faults(submit_429=1)):
        world.twin.faults = faults
        await world.post(**hook)
        await world.work()
        await world.go_on(12, 3)
    world.twin.faults = Faults()
    queued = [await world.post() for _ in range(8)]
    await world.api.post(f"/v1/tasks/{queued[-1]}/cancel")
    await look_around(world, queued[-1])
    assert (await world.api.delete(f"/v1/tasks/{queued[-1]}")).status_code == 204
    await world.work()
    await sweep(world.use, NO_TASK)
    await world.go_on(30, 10)
    await world.use.db.write(rarely)


async def look_around(world: World, task_id: str) -> None:
    filters = ("", "&status=stored", "&status=queued", "&model=flux-kontext-max", "&status=failed&model=none")
    pages = [f"/v1/tasks?limit=20{filter_}&cursor={task_id}" for filter_ in filters]
    pages += [f"/v1/tasks?limit=20{filter_}" for filter_ in filters]
    pages += [f"/v1/tasks/{task_id}", f"/v1/tasks/{task_id}/timeline", "/metrics", "/readyz", "/"]
    pages += ["/v1/deliveries", f"/v1/deliveries?task_id={task_id}", "/v1/endpoints", "/v1/jobs/held"]
    pages += ["/v1/events?after=start", f"/v1/events?task_id={task_id}", "/v1/events?kind=task.stored&after=start"]
    pages += [f"/v1/callbacks{query}" for query in ("", "?verdict=signed", "?verdict=forged", "?verdict=unproven")]
    pages += [f"/v1/callbacks?task_id={task_id}", f"/v1/callbacks?task_id={task_id}&verdict=forged"]
    pages += [f"/v1/callbacks?cursor={ids.first_at('ev', clock.utc_now() - timedelta(days=9))}"]
    pages += ["/v1/usage", f"/v1/usage?from={(clock.utc_now() - timedelta(days=1)).isoformat()[:19]}Z"]
    for page in pages:
        assert (await world.api.get(page)).status_code == 200, page


def rarely(connection: Connection) -> None:
    """What the story does not come to by itself."""
    now = clock.utc_now()
    some = tasks.newest(connection, limit=3, status=Status.QUEUED)
    queue.positions(connection, [task.id for task in some])
    tasks.reopen(connection, "task_none", now)
    endpoint = endpoints.newest(connection, limit=1, before=None, state=None, key_id=None)[0]
    deliveries.due(connection, endpoint.id, now, 4)
    deliveries.next_due(connection, endpoint.id)
    deliveries.end_waiting(connection, endpoint.id, "gone", now)
    deliveries.failed_between(connection, now - timedelta(minutes=1), now, deliveries.Wanted(), 10)
    deliveries.restart(connection, ["dlv_none"], now)
    for forget in (retention.forget_evidence, retention.forget_downloads, retention.forget_deliveries):
        forget(connection, now - timedelta(days=3650), "", 1000)


@contextmanager
def caught(database: Database) -> Iterator[Sent]:
    """What is sent to the database meanwhile."""
    sent: Sent = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        sent.setdefault(statement, parameters[0] if many else parameters)

    names = ("_writing", "_reading") if database.dialect.name == "sqlite" else ("_engine",)
    engines: list[Engine] = [getattr(getattr(database, name), "sync_engine", getattr(database, name)) for name in names]
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        for engine in engines:
            event.remove(engine, "before_cursor_execute", note)


async def offences(database: Database, sent: Sent) -> list[tuple[str, str]]:
    """The statements that read the whole of a growing table, each with what its plan says."""
    judge = _judge_sqlite if database.dialect.name == "sqlite" else _judge_postgres
    explained = {
        each: given for each, given in sent.items() if re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)", each)
    }

    def explain(connection: Connection) -> list[tuple[str, str]]:
        return [(each, why) for each, given in explained.items() for why in judge(connection, each, given)]

    return await database.write(explain)


def _judge_sqlite(connection: Connection, statement: str, given: Any) -> list[str]:
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given).all()
    scanned = [match for row in rows if (match := re.match(r"SCAN (\w+)( USING)?", row[3])) and match[1] in GROWING]
    if "LIMIT" in statement and re.search(r"WHERE(?! 1 = 1| events\.kind != \?)", statement) is None:
        # The first of all, or of all but the feed's floor, in the order of an index.
        scanned = [match for match in scanned if match[2] is None]
    return [match.string for match in scanned]


def _judge_postgres(connection: Connection, statement: str, given: Any) -> list[str]:
    plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", given).scalar_one()
    (whole,) = json.loads(plan) if isinstance(plan, str) else plan
    return [
        f"{node['Node Type']} of {node['Relation Name']}"
        for node, cost in _nodes(whole["Plan"], whole["Plan"]["Total Cost"])
        if node.get("Relation Name") in GROWING and _reads_all(node, cost)
    ]


def _nodes(node: dict[str, Any], cost: float) -> Iterator[tuple[dict[str, Any], float]]:
    """The parts of a plan, each with what it is expected to cost at most: its LIMIT may end it."""
    cost = node["Total Cost"] if node["Node Type"] == "Limit" else cost
    yield node, cost
    for inner in node.get("Plans", ()):
        yield from _nodes(inner, cost)


def _reads_all(node: dict[str, Any], cost: float) -> bool:
    """Whether a node reads its table, or an index of it, from end to end.

    To walk along an index until enough is found is well where that is expected soon, because most rows will do.
    """
    walks = "Index" in node["Node Type"] and "Index Cond" not in node and "Filter" in node
    return node["Node Type"].endswith("Seq Scan") or (walks and cost > _SOON)
