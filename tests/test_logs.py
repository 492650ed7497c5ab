"""The log: one JSON object for each line, whoever wrote it, and one line for each request and job attempt."""

import asyncio
import json
import logging
from collections.abc import Callable, Generator
from io import StringIO
from typing import Any

import pytest
import structlog

from app import logs
from app.provider.twin import Faults
from tests.calling import submitted
from tests.world import World

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written() -> Generator[Read]:
    """The log as it is configured for a service; gives what was written so far."""
    root, stream = logging.getLogger(), StringIO()
    handlers, level = list(root.handlers), root.level
    logs.configure(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


def test_a_line_says_when_how_bad_and_what(written: Read) -> None:
    logs.get("anything").warning("happened", task_id="task_1")

    (line,) = written()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "happened", "level": "warning", "task_id": "task_1"}


def test_the_lines_of_libraries_have_the_same_form(written: Read) -> None:
    logging.getLogger("some.library").error("lost %d of %d", 1, 2)

    (line,) = written()
    assert (line["event"], line["level"]) == ("lost 1 of 2", "error")


@pytest.mark.parametrize("library", ["httpx", "httpcore", "uvicorn.access"])
def test_whoever_writes_whole_addresses_is_quiet(written: Read, library: str) -> None:
    logging.getLogger(library).info("GET https://delivery.example/image?sig=secret")

    assert written() == []


def test_an_exception_is_one_line_too(written: Read) -> None:
    logs.get("anything").error("failed", exc_info=ValueError("what went wrong"))

    (line,) = written()
    assert "ValueError: what went wrong" in line["exception"]


def test_what_is_less_than_the_level_is_not_written(written: Read) -> None:
    logs.get("anything").debug("a detail")
    logging.getLogger("some.library").debug("another")

    assert written() == []


def test_facts_are_collected_for_whoever_asked_and_nobody_else() -> None:
    logs.note(task_id="before")
    with logs.collecting() as outer:
        logs.note(task_id="a", key_id="k")
        with logs.collecting() as inner:
            logs.note(task_id="b")
        logs.note(task_id="c")

    assert (outer, inner) == ({"task_id": "c", "key_id": "k"}, {"task_id": "b"})


async def test_facts_of_what_runs_at_the_same_time_do_not_mix() -> None:
    async def one(name: str) -> dict[str, Any]:
        with logs.collecting() as facts:
            await asyncio.sleep(0)
            logs.note(task_id=name)
            await asyncio.sleep(0)
        return facts

    assert list(await asyncio.gather(one("a"), one("b"))) == [{"task_id": "a"}, {"task_id": "b"}]


async def test_a_whole_life_is_one_line_for_each_request_and_job_with_the_ids_to_follow_it_by(
    world: World, written: Read
) -> None:
    caller = await submitted(world, faults=Faults())
    await world.go_on(5)
    lines = [line for line in written() if line["event"] in {"request", "job"}]

    assert [line.get("route") or line["step"] for line in lines] == [
        "/v1/tasks",
        "dispatch",
        "/callbacks/{submission_id}/{token}",
        "collect",
    ]
    assert {line["submission_id"] for line in lines} == {caller.submission_id}
    assert {line["task_id"] for line in lines if "verdict" not in line} == {caller.task_id}
    assert all(line["ms"] >= 0 for line in lines)
