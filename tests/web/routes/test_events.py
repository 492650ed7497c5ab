"""The feed over HTTP: pages, and streams over real sockets."""

import asyncio
import json
import signal
import socket
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.cli.process import Server, server
from app.db import Connection
from app.db.engine.bulk import DeferredWrites
from app.db.tables import events
from app.main import create_app
from app.rules.task import Status
from app.web import feed_cursors
from app.web.feed import Feed
from app.web.schemas.events import TASK_KINDS
from app.worker import loop
from app.worker.sweep import EVENTS_RETENTION, sweep
from tests.applications import application
from tests.calling import small
from tests.databases import connection_to
from tests.sockets import until
from tests.web.documents import problem
from tests.world import ADMIN_KEY, World, open_world

STEPS = ["task.queued", "task.submitting", "task.submitted", "task.ready", "task.stored"]
SSE = {"accept": "text/event-stream"}


def feed_of(app: FastAPI) -> Feed:
    feed: Feed = app.state.feed
    return feed


@dataclass
class Served:
    """The service of the world on a socket."""

    app: FastAPI
    server: Server
    api: httpx.AsyncClient

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncGenerator["Stream"]:
        async with self.api.stream("GET", path, headers={**SSE, **headers}) as response:
            assert response.status_code == httpx.codes.OK, await response.aread()
            yield Stream(response)

    async def until_no_listener(self) -> None:
        async def no_listener() -> bool:
            return feed_of(self.app).listeners == 0

        await until(no_listener)


@dataclass
class Stream:
    """Reads server-sent events according to their specification."""

    response: httpx.Response
    last_event_id: str = ""
    comments: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lines = self.response.aiter_lines()

    async def block(self) -> dict[str, str] | None:
        """Return the fields of the next block; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(120):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if not line:
                    self.last_event_id = fields.get("id", self.last_event_id)
                    return fields
                if name:
                    fields[name] = value
                else:
                    self.comments.append(value)
        return None

    async def event(self) -> dict[str, str] | None:
        """Return the next block with data."""
        while (block := await self.block()) is not None:
            if "data" in block:
                return block
        return None

    async def kinds(self, count: int = 1000) -> list[str]:
        """Return the kinds of the next events, or of all events until the end."""
        found: list[str] = []
        while len(found) < count and (event := await self.event()):
            found.append(event["event"])
        return found


@asynccontextmanager
async def served(world: World) -> AsyncGenerator[Served]:
    app = create_app(nullcontext(world.use), with_worker=False)
    ours = server(app, "127.0.0.1", 0)
    assert isinstance(ours, Server)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = asyncio.create_task(ours._serve([listening]))
        async with httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=120) as api:

            async def started() -> bool:
                return ours.started

            await until(started)
            try:
                yield Served(app, ours, api)
            finally:
                ours.should_exit = True
                await running


@pytest.fixture
async def service(world: World) -> AsyncGenerator[Served]:
    async with served(world) as opened:
        yield opened


async def stored(world: World) -> str:
    """Run a task from submission to its final state."""
    small(world)
    task_id = await world.post()
    await world.go_on(4)
    return task_id


async def page(world: World, **query: Any) -> dict[str, Any]:
    answer = await world.api.get("/v1/events", params=query)
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def kinds(world: World, **query: Any) -> list[str]:
    return [event["kind"] for event in (await page(world, **query))["events"]]


def test_every_state_of_a_task_is_a_kind_of_event() -> None:
    assert {f"task.{status}" for status in Status} == TASK_KINDS


async def test_a_page_without_a_position_begins_at_the_start(each_world: World) -> None:
    task_id = await stored(each_world)

    async def complete() -> bool:
        return await kinds(each_world) == STEPS

    await until(complete)
    found = await page(each_world)

    assert {event["task_id"] for event in found["events"]} == {task_id}
    assert found["events"][-1]["data"] == {"status": "stored", "failure": None}
    assert found["events"][-1]["id"] == found["next_cursor"]
    assert await kinds(each_world, after="") == await kinds(each_world, after="start") == STEPS


async def test_every_page_has_the_cursor_of_the_next_one(world: World) -> None:
    await stored(world)
    found, cursor = [], "start"
    for _ in range(4):
        answer = await page(world, after=cursor, limit=2)
        found.append([event["kind"] for event in answer["events"]])
        cursor = answer["next_cursor"]

    assert found == [STEPS[:2], STEPS[2:4], STEPS[4:], []]
    assert (await page(world, after="now"))["events"] == (await page(world, after=cursor))["events"] == []


async def test_an_event_of_a_later_version_is_shown_as_it_was_written(each_world: World) -> None:
    task_id = await each_world.post()
    data = {"status": "upscaled", "factor": 2}
    later = events.NewEvent("task.upscaled", task_id, json.dumps(data), each_world.clock())

    def append(connection: Connection) -> None:
        writes = DeferredWrites(connection)
        events.append(writes, [later])
        writes.send()

    await each_world.use.db.write(append)

    async def is_settled() -> bool:
        return "task.upscaled" in await kinds(each_world)

    await until(is_settled)
    found = (await page(each_world))["events"][-1]
    async with served(each_world) as service, service.stream("/v1/events?after=start") as stream:
        streamed = [await stream.event() for _ in range(len(await kinds(each_world)))][-1]

    assert (found["kind"], found["data"]) == ("task.upscaled", data)
    assert streamed is not None
    assert json.loads(streamed["data"]) == found


async def test_pages_can_be_filtered_by_task_and_by_kind(world: World) -> None:
    await stored(world)
    other = await world.post()

    assert await kinds(world, task_id=other) == ["task.queued"]
    assert await kinds(world, kind=["task.stored", "task.queued"]) == ["task.queued", "task.stored", "task.queued"]


async def test_an_empty_page_waits_for_the_next_event_if_asked_to(each_world: World) -> None:
    cursor = (await page(each_world, after="now"))["next_cursor"]
    asked = each_world.api.get("/v1/events", params={"after": cursor}, headers={"prefer": "wait=30"})
    waiting = asyncio.create_task(asked)
    await asyncio.sleep(0)
    task_id = await each_world.post()
    answer = await waiting

    assert [event["task_id"] for event in answer.json()["events"]] == [task_id]
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.json()["next_cursor"] == answer.json()["events"][-1]["id"]


async def test_a_pruned_position_is_answered_with_the_start_of_the_feed(world: World) -> None:
    await stored(world)
    first = (await page(world, limit=1))["next_cursor"]
    world.clock.advance(EVENTS_RETENTION.total_seconds() + 60)
    await sweep(world.use)
    await world.post()

    answer = await world.api.get("/v1/events", params={"after": first})

    found = problem(answer, 410)
    assert found["code"] == "events_gone"
    assert "continue with after=start" in found["detail"]
    assert problem(await world.api.get("/v1/events", headers={**SSE, "last-event-id": first}), 410)
    assert (await kinds(world))[0] == "task.queued"


async def test_the_cursor_from_the_start_of_a_pruned_feed_is_valid(
    each_world: World,
) -> None:
    await stored(each_world)
    each_world.clock.advance(EVENTS_RETENTION.total_seconds() + 60)
    await sweep(each_world.use)
    empty = await page(each_world, after="start")
    await each_world.post()

    async def has_begun() -> bool:
        return (await kinds(each_world, after=empty["next_cursor"]))[:1] == ["task.queued"]

    assert empty["events"] == []
    await until(has_begun)


async def test_a_stream_that_broke_before_its_first_event_can_be_resumed(world: World, service: Served) -> None:
    await stored(world)
    world.clock.advance(EVENTS_RETENTION.total_seconds() + 60)
    await sweep(world.use)
    path = f"/v1/tasks/{await world.post()}/events"
    async with service.stream(path) as stream:
        await stream.block()

    async with service.stream(path, **{"last-event-id": stream.last_event_id}) as stream:
        assert await stream.kinds(1) == ["task.queued"]


async def test_a_position_of_an_earlier_version_is_answered_as_one_that_is_no_longer_stored(world: World) -> None:
    await stored(world)

    assert problem(await world.api.get("/v1/events", params={"after": "0-2"}), 410)["code"] == "events_gone"


async def test_an_application_learns_nothing_about_the_events_of_others(each_world: World) -> None:
    """Neither how many there are, nor whether any were added."""
    made = await each_world.api.post("/v1/keys", json={"name": "quiet"})
    quiet = {"x-key": made.json()["key"]}

    async def cursor(after: str) -> str:
        answer = await each_world.outsider.get("/v1/events", params={"after": after}, headers=quiet)
        assert answer.json()["events"] == []
        text: str = answer.json()["next_cursor"]
        return text

    before = {await cursor("start") for _ in range(5)}
    await stored(each_world)
    after = {await cursor(text) for text in ("start", "now", *before)}

    assert len(before | after) == 12
    numbers = sorted(int(half, 16) for text in before | after for half in text.split("-"))
    assert numbers[0] > 2**40


@pytest.mark.parametrize("query", ["after=soon", "after=1-ffffffffffffffff", "kind=task.lost", "limit=0", "task_id=x"])
async def test_an_invalid_query_is_refused(world: World, query: str) -> None:
    answer = await world.api.get(f"/v1/events?{query}")

    assert list(problem(answer, 422)["fields"]) in ([query.partition("=")[0]], ["kind.0"])


async def test_the_feed_requires_a_key(world: World) -> None:
    problem(await world.outsider.get("/v1/events"), 401)
    problem(await world.outsider.get("/v1/events", headers=SSE), 401)
    problem(await world.outsider.get(f"/v1/tasks/{await world.post()}/events"), 401)


async def test_the_stream_of_a_task_has_all_its_events_and_ends_with_it(world: World, service: Served) -> None:
    small(world)
    task_id = await world.post()
    async with service.stream(f"/v1/tasks/{task_id}/events") as stream:
        opening = await stream.block()
        first = await stream.event()
        await world.post()
        await world.go_on(4)
        rest = await stream.kinds()

    assert opening is not None
    assert first is not None
    assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.response.headers["cache-control"] == "no-store"
    assert int(opening["retry"]) >= 2000
    assert [first["event"], *rest] == STEPS
    told = json.loads(first["data"])
    assert told == (await page(world))["events"][0]
    assert (first["id"], told["task_id"]) == (told["id"], task_id)


async def test_a_stream_resumes_at_its_last_position(world: World, service: Served) -> None:
    task_id = await stored(world)
    async with service.stream(f"/v1/tasks/{task_id}/events") as stream:
        await stream.kinds(2)
        left_at = stream.last_event_id

    async with service.stream(f"/v1/tasks/{task_id}/events", **{"last-event-id": left_at}) as stream:
        assert await stream.kinds() == STEPS[2:]
    async with service.stream(f"/v1/events?after={left_at}") as stream:
        assert await stream.kinds(3) == STEPS[2:]

    over = await service.api.get(f"/v1/tasks/{task_id}/events", headers={"last-event-id": stream.last_event_id})
    assert (over.status_code, over.content) == (204, b"")


async def test_an_unknown_task_has_no_stream(world: World) -> None:
    problem(await world.api.get(f"/v1/tasks/task_{'0' * 37}/events"), 404)
    problem(await world.api.get("/v1/tasks/none/events"), 404)


async def test_a_stream_of_all_tasks_begins_now_and_sends_its_position(world: World, service: Served) -> None:
    await world.post()
    async with service.stream("/v1/events?kind=task.queued") as stream:
        await stream.block()
        began_at = stream.last_event_id
        second = await world.post()
        heard = await stream.event()

    assert heard is not None
    assert json.loads(heard["data"])["task_id"] == second
    assert [event["task_id"] for event in (await page(world, after=began_at))["events"]] == [second]


async def test_a_stream_without_events_gets_heartbeats_with_the_current_position(world: World, service: Served) -> None:
    service.app.state.feed.heartbeat_s = 0.02
    async with service.stream("/v1/events?kind=task.stored") as stream:
        await stream.block()
        await world.post()
        last = feed_cursors.position_of(world.use.keys, (await page(world))["next_cursor"])
        while feed_cursors.position_of(world.use.keys, stream.last_event_id) != last:
            await stream.block()

    assert set(stream.comments) == {"the feed", "nothing new"}


async def test_a_client_that_disconnects_leaves_nothing_behind(world: World, service: Served) -> None:
    task_id = await world.post()
    async with service.stream("/v1/events") as one, service.stream(f"/v1/tasks/{task_id}/events") as other:
        await one.block()
        await other.event()
        assert feed_of(service.app).listeners > 0

    await service.until_no_listener()


async def test_a_stopping_service_ends_its_streams_with_reconnect_and_does_not_wait_for_them(world: World) -> None:
    async with served(world) as service, service.stream("/v1/events") as stream:
        await stream.block()
        # Well before the server closes the remaining connections by force, which would cut off the last event.
        service.server.handle_exit(signal.SIGTERM, None)

        assert await stream.kinds() == ["reconnect"]
        assert await stream.block() is None


async def test_a_process_gets_the_events_of_a_worker_in_another_process(tmp_path: Path, postgres_url: str) -> None:
    async with (
        open_world(tmp_path, postgres_url) as one,
        open_world(tmp_path, postgres_url) as other,
        served(one) as service,
    ):
        small(other)
        task_id = await one.post()
        async with service.stream(f"/v1/tasks/{task_id}/events") as stream:
            waiting = asyncio.create_task(one.api.get(f"/v1/tasks/{task_id}", headers={"prefer": "wait=30"}))
            while await loop.run_once(other.use):
                pass
            await other.go_on(4)

            assert await stream.kinds() == STEPS
            assert (await waiting).json()["status"] == "stored"


async def test_a_posted_task_is_answered_even_if_the_database_fails_during_the_wait(
    world: World, service: Served, tmp_path: Path
) -> None:
    async def is_waited_for() -> bool:
        return feed_of(service.app).listeners > 0

    task = {"prompt": "a red fox"}
    asked = asyncio.create_task(service.api.post("/v1/tasks", json=task, headers={"prefer": "wait=1"}))
    await until(is_waited_for)
    with closing(sqlite3.connect(tmp_path / "fluxhook.db", isolation_level=None)) as other:
        other.execute("ALTER TABLE tasks RENAME TO away")
        answer = await asked
        other.execute("ALTER TABLE away RENAME TO tasks")

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["location"] == f"/v1/tasks/{answer.json()['id']}"
    assert (await world.task(answer.json()["id"]))["status"] == "queued"


async def test_a_finished_task_with_pruned_events_is_answered_with_204(world: World) -> None:
    task_id = await stored(world)
    await world.use.db.write(lambda connection: events.prune(connection, world.clock() + EVENTS_RETENTION))

    assert (await world.api.get(f"/v1/tasks/{task_id}/events")).status_code == httpx.codes.NO_CONTENT


@asynccontextmanager
async def held_back(postgres_url: str) -> AsyncGenerator[AsyncConnection]:
    """Keep all events in the block from their readers, with a transaction of another application."""
    async with connection_to(postgres_url) as other:
        await other.execute(text("SELECT pg_current_xact_id()"))
        yield other


async def until_late(world: World, service: Served) -> None:
    """Let time pass until the reader of the feed has noticed that it is late."""

    async def is_late() -> bool:
        world.clock.advance(6)
        return feed_of(service.app).lateness.since is not None

    await until(is_late)


@pytest.fixture
async def shared_world(tmp_path: Path, postgres_url: str) -> AsyncGenerator[World]:
    async with open_world(tmp_path, postgres_url) as opened:
        yield opened


async def test_a_page_says_since_when_events_are_late(shared_world: World, postgres_url: str) -> None:
    began_at = shared_world.clock()
    async with held_back(postgres_url):
        await shared_world.post()
        at_once = await shared_world.api.get("/v1/events")
        shared_world.clock.advance(6)
        late = await shared_world.api.get("/v1/events")
    after = await shared_world.api.get("/v1/events")

    assert "events-late-since" not in at_once.headers
    assert (late.json()["events"], late.headers["events-late-since"]) == ([], began_at.isoformat())
    assert [event["kind"] for event in after.json()["events"]] == ["task.queued"]
    assert "events-late-since" not in after.headers


async def test_an_application_is_not_told_that_events_of_another_one_are_late(
    shared_world: World, postgres_url: str
) -> None:
    began_at = shared_world.clock().isoformat()
    keys = [(await application(shared_world, name))["x-key"] for name in ("shop", "club")]
    shop, club = ({"authorization": f"Bearer {key}"} for key in keys)
    async with (
        served(shared_world) as service,
        service.stream("/v1/events", **shop) as stream,
        service.stream("/v1/events", **club) as other_stream,
        held_back(postgres_url),
    ):
        await stream.block()
        await other_stream.block()
        posted = await shared_world.outsider.post("/v1/tasks", json={"prompt": "a red fox"}, headers=shop)
        path = f"/v1/events?task_id={posted.json()['id']}"
        await until_late(shared_world, service)
        await stream.block()
        await other_stream.block()
        pages = [
            (await service.api.get(asked, headers={**headers, **waits})).headers.get("events-late-since")
            for asked in ("/v1/events", path)
            for waits in ({}, {"prefer": "wait=1"})
            for headers in (shop, club)
        ]

    assert stream.comments[1] == f"late: events since {began_at} are not visible yet"
    assert other_stream.comments[1] == "nothing new"
    assert pages == [began_at, None] * 4


async def test_a_stream_and_a_page_that_waits_say_that_events_are_late(shared_world: World, postgres_url: str) -> None:
    began_at = shared_world.clock().isoformat()
    async with (
        served(shared_world) as service,
        service.stream("/v1/events") as stream,
        held_back(postgres_url) as other,
    ):
        await stream.block()
        await shared_world.post()
        await until_late(shared_world, service)
        await stream.block()
        page = await service.api.get("/v1/events", headers={"prefer": "wait=1"})
        await other.commit()

        assert await stream.kinds(1) == ["task.queued"]
    assert stream.comments[1] == f"late: events since {began_at} are not visible yet"
    assert (page.json()["events"], page.headers["events-late-since"]) == ([], began_at)


async def test_a_request_that_waits_for_a_task_is_answered_although_events_are_late(
    shared_world: World, postgres_url: str
) -> None:
    small(shared_world)
    task_id = await shared_world.post()
    async with served(shared_world) as service, asyncio.timeout(50):  # less than the longest wait

        async def is_waited_for() -> bool:
            return feed_of(service.app).listeners > 0

        waiting = asyncio.create_task(service.api.get(f"/v1/tasks/{task_id}", headers={"prefer": "wait=60"}))
        await until(is_waited_for)
        async with held_back(postgres_url):
            while not waiting.done():
                await shared_world.go_on(6)
            task = (await waiting).json()
            page = (await shared_world.api.get("/v1/events")).json()

    assert task["status"] == "stored"
    assert [event["kind"] for event in page["events"]] == ["task.queued"]
