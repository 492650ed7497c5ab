"""Generated tasks equal real ones for the API, and a measurement leaves nothing behind."""

from itertools import pairwise
from pathlib import Path

from app import clock, ids
from app.db import Connection
from app.db.engine.database import open_database
from app.rules.task import Status
from benchmarks.growing import Compared, Figures, compare, measure
from benchmarks.growth import grow
from tests.rows import newest_tasks
from tests.world import open_world

TASKS = 2000
TABLES = ("tasks", "submissions", "evidence", "results", "downloads", "deliveries", "delivery_attempts")


def counted(connection: Connection) -> dict[str, int]:
    return {
        table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608
        for table in TABLES
    }


async def test_each_generated_task_has_about_three_pieces_of_evidence(database_url: str) -> None:
    progress: list[int] = []
    await grow(database_url, TASKS, progress.append)
    async with open_database(database_url) as database:
        rows = await database.read(counted)

    assert rows["tasks"] == TASKS == progress[-1]
    assert rows["submissions"] > TASKS
    assert 2.9 < rows["evidence"] / TASKS < 3.2
    assert 0.95 < rows["results"] / TASKS < 0.99
    assert rows["deliveries"] == rows["delivery_attempts"] > 0


async def test_generated_tasks_are_readable_through_the_api(tmp_path: Path, database_url: str) -> None:
    await grow(database_url, TASKS)
    async with open_world(tmp_path, database_url) as world:
        world.clock.at = clock.utc_now()
        newest = {}
        for status in ("stored", "failed", "cancelled"):
            page = (await world.api.get("/v1/tasks", params={"status": status})).json()["tasks"]
            newest[status] = page[0]
            created = [task["created_at"] for task in page]
            assert created == sorted(created, reverse=True)
        stored = newest["stored"]["id"]
        witnesses = [entry["witness"] for entry in await world.timeline(stored, "evidence")]
        events = (await world.api.get("/v1/events?after=start")).json()["events"]
        deliveries = (await world.api.get("/v1/deliveries")).json()["deliveries"]
        ready = (await world.api.get("/readyz")).json()

    assert ids.is_id("task", stored)
    assert newest["stored"]["image"]["width"] == 1024
    assert newest["failed"]["failure"]["code"] == "content_moderated"
    assert newest["cancelled"]["image"] is None
    assert sorted(witnesses)[:1] + sorted(witnesses)[-1:] == ["callback", "submit"]
    assert len(events) == 100
    assert deliveries[0]["state"] in {"delivered", "failed"}
    assert ready["notes"] == []


async def test_the_order_of_ids_is_the_order_of_creation(database_url: str) -> None:
    await grow(database_url, TASKS)
    async with open_database(database_url) as database:
        newest = await database.read(lambda connection: newest_tasks(connection, TASKS, statuses=(Status.STORED,)))

    assert all(ids.first_at("task", task.created_at) <= task.id for task in newest)
    assert all(later.created_at > earlier.created_at for later, earlier in pairwise(newest))


async def test_a_measurement_leaves_nothing_behind(database_url: str) -> None:
    await grow(database_url, TASKS)
    async with open_database(database_url) as database:
        before = await database.read(counted)
        figures = await measure(database_url, times=3, warm=1, max_batches=2)
        after = await database.read(counted)

    assert after == before
    assert {"task by id", "claim of jobs", "16 callbacks"} < figures.keys()
    assert all(0 < path.median_ms <= path.p99_ms for path in figures.values())


def test_the_largest_ratio_comes_first() -> None:
    small = {"list": Figures(1, 2), "read": Figures(1, 2), "gone": Figures(1, 1)}
    large = {"list": Figures(1.5, 2), "read": Figures(3, 9)}

    assert [(compared.path, compared.ratio) for compared in compare(small, large)] == [("read", 3), ("list", 1.5)]
    assert isinstance(compare(small, large)[0], Compared)
