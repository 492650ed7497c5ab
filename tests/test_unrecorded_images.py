"""Input images that are stored for a task that is never recorded: no row names them, and yet they are removed."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.db import Connection
from app.errors import Unavailable
from app.store import FolderStore
from app.submit import submit
from app.worker.sweep import UNRECORDED, sweep
from tests.applications import application
from tests.databases import listening_for
from tests.pictures import in_base64, picture
from tests.requests import task_params
from tests.test_collect import files
from tests.web.documents import problem, rows
from tests.world import World

IMAGE = {"input_image": in_base64(picture(64, 64))}
HOUR = UNRECORDED.total_seconds() + 60


class Failed(BaseException):
    """Stands for a process that dies: no handler of the service catches it."""


class Calling(FolderStore):
    """A folder that calls the test after each image is stored."""

    then: Callable[[], Any]

    async def put(self, key: str, source: IO[bytes]) -> None:
        await super().put(key, source)
        await self.then()


@contextmanager
def at_the_record(world: World, name: str, act: Callable[[Any], None]) -> Generator[None]:
    """Call `act` with the connection at an event of the transaction that records a task."""
    recording = []

    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO tasks"):
            recording.append(connection)
            if name == "insert":
                act(connection)

    def at_commit(connection: Any) -> None:
        if connection in recording and name == "commit":
            act(connection)

    with listening_for(world.use.db, "before_cursor_execute", note), listening_for(world.use.db, "commit", at_commit):
        yield
        assert recording


def fail(_connection: Any) -> None:
    raise OperationalError("", None, OSError("the database is away"))


def lose_the_answer(connection: Any) -> None:
    connection.connection.dbapi_connection.commit()
    fail(connection)


def inputs(folder: Path) -> list[str]:
    return [name for name in files(folder) if "inputs/" in name]


async def unrecorded(world: World) -> int:
    def count(connection: Connection) -> int:
        return int(connection.execute(text("SELECT count(*) FROM unrecorded_images")).scalar_one())

    return await world.use.db.read(count)


async def later(world: World, seconds: float) -> None:
    """Let time pass, then a sweep and every due job run."""
    world.clock.advance(seconds)
    await sweep(world.use)
    await world.work()


async def test_an_image_is_removed_an_hour_after_a_request_whose_process_died(
    each_world: World, tmp_path: Path
) -> None:
    async def die() -> None:
        raise Failed

    store = Calling(tmp_path / "images")
    store.then = die
    with pytest.raises(Failed):
        await submit(replace(each_world.use, store=store), "key_admin", task_params(**IMAGE), {})
    await each_world.post(**IMAGE)
    await each_world.work()
    assert len(inputs(tmp_path)) == 2

    await later(each_world, HOUR)

    assert len(inputs(tmp_path)) == 1
    assert await unrecorded(each_world) == 0


async def test_an_image_is_removed_an_hour_after_its_task_could_not_be_recorded(
    each_world: World, tmp_path: Path
) -> None:
    with at_the_record(each_world, "insert", fail):
        problem(await each_world.api.post("/v1/tasks", json={"prompt": "a fox", **IMAGE}), 503)
    await later(each_world, 60)
    assert len(inputs(tmp_path)) == 1

    await later(each_world, HOUR)

    assert inputs(tmp_path) == []
    assert (await rows(each_world))["tasks"] == 0


async def test_an_image_stays_if_its_task_was_recorded_by_a_commit_without_an_answer(
    each_world: World, tmp_path: Path
) -> None:
    with at_the_record(each_world, "commit", lose_the_answer):
        problem(await each_world.api.post("/v1/tasks", json={"prompt": "a fox", **IMAGE}), 503, "task_may_exist")

    await later(each_world, HOUR)

    assert len(inputs(tmp_path)) == (await rows(each_world))["tasks"] == 1


async def test_a_request_that_takes_longer_than_an_hour_makes_no_task_without_its_image(
    each_world: World, tmp_path: Path
) -> None:
    async def take_an_hour() -> None:
        await later(each_world, HOUR)

    store = Calling(tmp_path / "images")
    store.then = take_an_hour
    with pytest.raises(Unavailable):
        await submit(replace(each_world.use, store=store), "key_admin", task_params(**IMAGE), {})
    await each_world.work()

    assert (inputs(tmp_path), await unrecorded(each_world)) == ([], 0)
    assert (await rows(each_world))["tasks"] == 0


async def test_a_request_that_is_answered_leaves_no_row_of_its_image(each_world: World) -> None:
    shop = await application(each_world, "shop", budget=(4, "day"))
    for status in (202, 402):
        answer = await each_world.outsider.post("/v1/tasks", json={"prompt": "a fox", **IMAGE}, headers=shop)
        assert answer.status_code == status, answer.text

    assert await unrecorded(each_world) == 0
