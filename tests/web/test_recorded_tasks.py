"""A database that goes away while a task is posted: no answer hides a task that was recorded, or may have been."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.util import await_only

from tests.databases import connection_to, listening_for
from tests.web.documents import problem, rows
from tests.world import World, open_world

POSTS = ["/v1/tasks", "/v1/flux-kontext-pro", "/flux/v1/flux-kontext-max"]


@contextmanager
def away_after_a_task(world: World) -> Generator[None]:
    """Let no transaction begin after the one that records a task."""
    recording = committed = False

    def note_insert(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        nonlocal recording
        recording = recording or statement.startswith("INSERT INTO tasks")

    def note_commit(_connection: Any) -> None:
        nonlocal committed
        committed = recording

    def refuse(_connection: Any) -> None:
        if committed:
            raise OperationalError("BEGIN", None, OSError("the database is away"))

    with (
        listening_for(world.use.db, "before_cursor_execute", note_insert),
        listening_for(world.use.db, "commit", note_commit),
        listening_for(world.use.db, "begin", refuse),
    ):
        yield
        assert committed


@pytest.mark.parametrize("headers", [{}, {"prefer": "wait=5"}, {"idempotency-key": "one"}], ids=str)
@pytest.mark.parametrize("path", POSTS)
async def test_a_task_that_was_recorded_is_named_although_the_database_went_away(
    each_world: World, path: str, headers: dict[str, str]
) -> None:
    with away_after_a_task(each_world):
        answer = await each_world.api.post(path, json={"prompt": "a red fox"}, headers=headers)

    assert answer.status_code == (202 if path == "/v1/tasks" else 200), answer.text
    assert (await each_world.task(answer.json()["id"]))["status"] == "queued"
    assert (await rows(each_world))["tasks"] == 1


@contextmanager
def cut_at_the_commit(world: World, address: str) -> Generator[None]:
    """End the connection of the first transaction that records a task at its COMMIT."""
    recording: set[int] = set()
    cut = False

    def note_insert(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO tasks"):
            recording.add(connection.connection.driver_connection.get_server_pid())

    async def end(pid: int) -> None:
        async with connection_to(address) as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})

    def end_recording(connection: Any) -> None:
        nonlocal cut
        pid = connection.connection.driver_connection.get_server_pid()
        if pid in recording and not cut:
            cut = True
            await_only(end(pid))

    with (
        listening_for(world.use.db, "before_cursor_execute", note_insert),
        listening_for(world.use.db, "commit", end_recording),
    ):
        yield
        assert cut


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "one"}], ids=["without a key", "with a key"])
@pytest.mark.parametrize("path", POSTS)
async def test_a_connection_that_is_lost_at_the_commit_names_the_task_that_may_exist(
    tmp_path: Path, postgres_url: str, path: str, headers: dict[str, str]
) -> None:
    async with open_world(tmp_path, postgres_url) as world:
        with cut_at_the_commit(world, postgres_url):
            answer = await world.api.post(path, json={"prompt": "a red fox"}, headers=headers)
        again = await world.api.post(path, json={"prompt": "a red fox"}, headers=headers)
        found = problem(answer, 503, "task_may_exist")

        assert found["task_id"].startswith("task_")
        assert "retry-after" not in answer.headers
        assert again.is_success
        assert (await rows(world))["tasks"] == 1


async def test_a_database_that_is_away_before_the_task_is_recorded_names_none(world: World) -> None:
    def refuse(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO tasks"):
            raise OperationalError(statement, None, OSError("the database is away"))

    with listening_for(world.use.db, "before_cursor_execute", refuse):
        answer = await world.api.post("/v1/tasks", json={"prompt": "a red fox"})

    found = problem(answer, 503, "unavailable")
    assert "task_id" not in found
    assert answer.headers["retry-after"]
