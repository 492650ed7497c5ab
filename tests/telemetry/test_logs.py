"""The log: every line is a JSON object, including those of libraries; requests and job attempts write one line each."""

import asyncio
import gc
import json
import logging
import sqlite3
import sys
import warnings
from collections.abc import Callable, Generator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext
from sqlalchemy.exc import OperationalError, StatementError

from app.cli.serve import prepare
from app.settings import Settings
from app.telemetry import logs
from app.twin import Faults
from tests.calling import submitted
from tests.world import World

Read = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written() -> Generator[Read]:
    """Configure the log as a service does. Yield a function that returns the lines so far."""
    root, stream = logging.getLogger(), StringIO()
    handlers, level = list(root.handlers), root.level
    hooks = warnings.showwarning, sys.unraisablehook
    logs.configure(stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level
    warnings.showwarning, sys.unraisablehook = hooks


def test_a_line_has_time_logger_level_and_event(written: Read) -> None:
    logs.get("anything").warning("happened", task_id="task_1")

    (line,) = written()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "happened", "logger": "anything", "level": "warning", "task_id": "task_1"}


def test_the_lines_of_libraries_have_the_same_form(written: Read) -> None:
    logging.getLogger("some.library").error("lost %d of %d", 1, 2)

    (line,) = written()
    assert (line["event"], line["logger"], line["level"]) == ("lost 1 of 2", "some.library", "error")


@pytest.mark.parametrize("library", ["httpx", "httpcore", "uvicorn.access"])
def test_libraries_that_log_complete_urls_are_silenced(written: Read, library: str) -> None:
    logging.getLogger(library).info("GET https://delivery.example/image?sig=secret")

    assert written() == []


async def test_a_first_start_logs_one_line_about_the_schema(written: Read, tmp_path: Path) -> None:
    await prepare(Settings.model_validate({"data_dir": tmp_path}))

    assert [(line["event"], line["from_revision"]) for line in written()] == [("schema_migrated", None)]


def test_an_exception_is_logged_in_one_line(written: Read) -> None:
    logs.get("anything").error("failed", exc_info=ValueError("what went wrong"))

    (line,) = written()
    assert line["exception"] == "ValueError"


SPELL = "Rumpelstiltskin spins straw"


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError(SPELL), "ValueError"),
        (StatementError(SPELL, "INSERT INTO tasks", {"prompt": SPELL}, ValueError(SPELL)), "StatementError"),
        (OperationalError("INSERT", {"prompt": SPELL}, sqlite3.OperationalError(SPELL)), "OperationalError"),
        (with_cause(RuntimeError(SPELL), KeyError(SPELL)), "caused by KeyError"),
        (ExceptionGroup(SPELL, [ValueError(SPELL), OSError(28, SPELL)]), "  - OSError [28]"),
        (json.JSONDecodeError(SPELL, SPELL, 1), "json.decoder.JSONDecodeError"),
    ],
    ids=["plain", "statement", "database", "cause", "group", "parser"],
)
def test_no_message_of_an_exception_reaches_the_log(written: Read, error: Exception, shown: str) -> None:
    def fail() -> None:
        raise error

    try:
        fail()
    except Exception:
        logs.get("ours").exception("failed")
        logging.getLogger("a.library").exception("failed")
    logs.get("ours").error("failed", exc_info=error, error=error)
    logs.get("ours").error("failed", exc_info=(type(error), error, error.__traceback__))
    lines = written()

    assert len(lines) == 4
    assert SPELL not in json.dumps(lines)
    for line in lines:
        assert shown in line["exception"]
        assert f"{__file__}:" in line["exception"]
        assert " in test_no_message_of_an_exception_reaches_the_log" in line["exception"]


def test_an_exception_of_a_lost_asyncio_task_is_logged_without_its_message(written: Read) -> None:
    async def fail() -> None:
        raise ValueError(SPELL)

    async def lose() -> None:
        lost = asyncio.create_task(fail())
        await asyncio.wait([lost])
        del lost
        gc.collect()

    asyncio.run(lose())
    (line,) = written()

    assert (line["logger"], line["event"]) == ("asyncio", "Task exception was never retrieved")
    assert line["exception"].startswith("ValueError\n")
    assert SPELL not in json.dumps(line)


async def test_emitted_lines_below_the_level_are_not_written(written: Read) -> None:
    stream = StringIO()
    logs.configure("warning", stream)
    logs.emit("request", {"method": "GET"}, logger="web")
    await asyncio.sleep(0)

    assert stream.getvalue() == ""
    assert written() == []


async def test_a_closed_log_raises_no_error(written: Read) -> None:
    closed = StringIO()
    logs.configure(stream=closed)
    closed.close()

    logs.get("anything").warning("happened")
    logs.emit("request", {"method": "GET"}, logger="web")
    await asyncio.sleep(0)

    assert written() == []


def test_lines_below_the_level_are_not_written(written: Read) -> None:
    logs.get("anything").debug("a detail")
    logging.getLogger("some.library").debug("another")

    assert written() == []


# What is emitted many times a second


async def the_round_is_over() -> None:
    await asyncio.sleep(0)


async def test_an_emitted_line_has_the_members_of_any_other(written: Read) -> None:
    logs.emit("request", {"task_id": "task_1", "odd": 'ü"\\\n', "none": None, "thing": ValueError("x")}, logger="web")
    await the_round_is_over()
    logs.get("web").info("request", task_id="task_1", odd='ü"\\\n', none=None, thing=ValueError("x"))

    emitted, other = written()
    for line in (emitted, other):
        assert len(line.pop("timestamp")) == len("2026-01-01T12:00:00.000000Z")
    assert emitted == other
    assert (emitted["event"], emitted["logger"], emitted["level"]) == ("request", "web", "info")
    assert emitted["odd"] == 'ü"\\\n'


async def test_an_emitted_line_names_the_span_that_it_was_emitted_in(written: Read) -> None:
    here = SpanContext(trace_id=7, span_id=8, is_remote=False)
    with trace.use_span(NonRecordingSpan(here)):
        logs.emit("inside", {}, logger="web")
    logs.emit("outside", {}, logger="web")
    await the_round_is_over()

    inside, outside = written()
    assert (inside["trace_id"], inside["span_id"]) == (f"{7:032x}", f"{8:016x}")
    assert not {"trace_id", "span_id"} & outside.keys()


async def test_lines_emitted_in_one_iteration_of_the_event_loop_are_written_in_order(written: Read) -> None:
    for number in range(100):
        logs.emit("request", {"number": number}, logger="web")
    early = written()
    await the_round_is_over()
    for number in range(100, 103):
        logs.emit("request", {"number": number}, logger="web")
        await the_round_is_over()

    assert early == []
    assert [line["number"] for line in written()] == list(range(103))


def test_lines_emitted_before_the_event_loop_ends_are_written(written: Read) -> None:
    async def last(name: str) -> None:
        logs.emit(name, {}, logger="web")

    for name in ("first loop", "second loop"):
        asyncio.run(last(name))

    assert [line["event"] for line in written()] == ["first loop", "second loop"]


async def test_lines_after_one_that_cannot_be_written_are_written(written: Read) -> None:
    circular: dict[str, Any] = {}
    circular["itself"] = circular
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    logs.emit("request", {"odd": circular}, logger="web")
    await the_round_is_over()
    logs.emit("request", {"number": 1}, logger="web")
    await the_round_is_over()

    assert [line["number"] for line in written()] == [1]
    assert len(told) == 1


async def test_an_emitted_line_follows_another_configuration_of_structlog() -> None:
    with structlog.testing.capture_logs() as captured:
        logs.emit("request", {"number": 1}, logger="web")

    assert captured == [{"event": "request", "log_level": "info", "number": 1}]


def test_facts_are_collected_by_the_innermost_block() -> None:
    logs.note(task_id="before")
    with logs.collecting() as outer:
        logs.note(task_id="a", key_id="k")
        with logs.collecting() as inner:
            logs.note(task_id="b")
        logs.note(task_id="c")

    assert (outer, inner) == ({"task_id": "c", "key_id": "k"}, {"task_id": "b"})


async def test_facts_of_concurrent_blocks_do_not_mix() -> None:
    async def one(name: str) -> dict[str, Any]:
        with logs.collecting() as facts:
            await asyncio.sleep(0)
            logs.note(task_id=name)
            await asyncio.sleep(0)
        return facts

    assert list(await asyncio.gather(one("a"), one("b"))) == [{"task_id": "a"}, {"task_id": "b"}]


async def test_each_request_and_job_of_a_task_writes_one_line_with_its_ids(world: World, written: Read) -> None:
    caller = await submitted(world, faults=Faults())
    await world.go_on(5)
    lines = [line for line in written() if line["event"] in {"request", "job"}]

    assert [line.get("route") or line["step"] for line in lines] == [
        "/v1/tasks",
        "dispatch",
        "/callbacks/{submission_id}/{token}",
        "collect",
    ]
    assert {line["submission_id"] for line in lines} == {caller.attempt_id}
    assert {line["task_id"] for line in lines if "verdict" not in line} == {caller.task_id}
    assert all(line["ms"] >= 0 for line in lines)


def test_a_warning_of_a_library_is_a_line_without_its_text(written: Read) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit("a secret value", ResourceWarning, "/usr/lib/python/site-packages/some/library.py", 12)

    (line,) = written()
    assert (line["event"], line["level"]) == ("library_warning", "warning")
    assert (line["category"], line["at"]) == ("ResourceWarning", "some/library.py:12")
    assert "secret" not in json.dumps(line)


def test_an_exception_in_a_finalizer_is_a_line(written: Read) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("a secret value")

    broken = Broken()
    del broken

    (line,) = written()
    assert (line["event"], line["level"]) == ("unraisable_exception", "error")
    assert "secret" not in json.dumps(line)
