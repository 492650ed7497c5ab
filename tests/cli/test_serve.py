"""The preparation of a start, on both databases."""

import asyncio
import gc
import logging
import re
import socket
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import httpx
import pytest
import uvicorn
import uvloop
from starlette.responses import PlainTextResponse

from app import jobs
from app.cli.process import freeze_lasting_objects, server
from app.cli.serve import announce, prepare
from app.clock import utc_now
from app.db.engine.database import Database, open_database
from app.db.migrations.revision import is_current
from app.db.tables import api_keys, idempotency_keys, provider_accounts
from app.db.tables.idempotency_keys import StoredAnswer
from app.errors import ConfigurationError
from app.jobs import Step
from app.settings import Settings
from app.web.auth import digest_of
from app.wiring import database_url
from tests.postgres import Postgres
from tests.rows import START, plan_task
from tests.sockets import listening, until
from tests.world import ADMIN_KEY, RING_KEY


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    """A first start on SQLite."""
    return Settings.model_validate({"data_dir": tmp_path, "admin_key": ADMIN_KEY})


@pytest.fixture
def shared(tmp_path: Path, postgres: Postgres) -> Generator[Settings]:
    """A first start on PostgreSQL."""
    name = f"test_{uuid4().hex}"
    given = {"data_dir": tmp_path, "admin_key": ADMIN_KEY, "secret_keys": RING_KEY}
    yield Settings.model_validate({"database_url": asyncio.run(postgres.create(name)), **given})
    asyncio.run(postgres.drop(name))


async def half_answered(database: Database) -> None:
    """Store two idempotent requests: one is answered, one was interrupted."""
    await database.write(lambda connection: idempotency_keys.begin(connection, "key", "cut", "d", START))
    await database.write(lambda connection: idempotency_keys.begin(connection, "key", "answered", "d", START))
    answer = StoredAnswer("task_1")
    await database.write(lambda connection: idempotency_keys.answer(connection, "key", "answered", START, answer))


@pytest.fixture(params=["embedded", "shared"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """A first start on each engine."""
    settings: Settings = request.getfixturevalue(request.param)
    return settings


async def test_a_start_migrates_and_a_second_start_changes_nothing(settings: Settings) -> None:
    await prepare(settings)
    await prepare(settings)

    async with open_database(database_url(settings)) as database:
        assert await database.read(is_current)
        admin = await database.read(lambda connection: api_keys.by_digest(connection, digest_of(ADMIN_KEY)))
    assert admin is not None


async def test_ten_replicas_that_start_at_once_on_an_empty_database_all_start(shared: Settings) -> None:
    await asyncio.gather(*(prepare(shared) for _ in range(10)))


async def test_a_start_gives_slots_at_the_time_of_the_database_if_the_clock_of_its_machine_is_wrong(
    shared: Settings,
) -> None:
    """Else a task that waits gets its slot for a dispatch an hour later, which nothing makes earlier."""
    await prepare(shared)
    async with open_database(database_url(shared)) as database:
        (account,) = await database.read(provider_accounts.list_all)
        await database.write(lambda connection: plan_task(connection, at=utc_now(), account_id=account.id))

        await prepare(shared, now=lambda: utc_now() + timedelta(hours=1))

        planned = await database.read(jobs.planned, "task_1", [Step.DISPATCH])
    assert [job.run_at < utc_now() + timedelta(minutes=30) for job in planned] == [True]


async def test_a_start_deletes_idempotency_keys_that_the_previous_process_left_unanswered(embedded: Settings) -> None:
    await prepare(embedded)
    async with open_database(database_url(embedded)) as database:
        await half_answered(database)

    await prepare(embedded)

    later = START + timedelta(seconds=1)
    async with open_database(database_url(embedded)) as database:
        again = await database.write(lambda connection: idempotency_keys.begin(connection, "key", "cut", "d", later))
        kept = await database.read(lambda connection: idempotency_keys.get(connection, "key", "answered"))
    assert again
    assert kept is not None
    assert kept.answer == StoredAnswer("task_1")


async def test_a_starting_replica_keeps_the_unanswered_idempotency_keys_of_other_replicas(shared: Settings) -> None:
    await prepare(shared)
    async with open_database(database_url(shared)) as database:
        await half_answered(database)

    await prepare(shared)

    async with open_database(database_url(shared)) as database:
        kept = await database.read(lambda connection: idempotency_keys.get(connection, "key", "cut"))
    assert kept is not None
    assert kept.answer is None


async def test_on_postgresql_the_admin_key_is_required_and_never_generated(shared: Settings) -> None:
    with pytest.raises(ConfigurationError, match="FLUXHOOK_ADMIN_KEY"):
        await prepare(shared.model_copy(update={"admin_key": None}))


def test_the_first_start_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"FLUXHOOK_DATA_DIR": str(tmp_path), "FLUXHOOK_HOST": "::", "FLUXHOOK_PORT": "8181"}
    with_provider = Settings.from_env({**env, "FLUXHOOK_BFL_API_KEY": "a-provider-key"})
    announce(with_provider, "on here", "a-new-key")
    first = capsys.readouterr().out
    announce(with_provider, "on here", None)
    announce(Settings.from_env(env), "on here", "a-new-key")
    later = capsys.readouterr().out

    assert "Open http://127.0.0.1:8181/ and sign in" in first
    assert re.search(rf"FLUXHOOK_DATA_DIR={tmp_path} .* submit .* --url http://127.0.0.1:8181\n", first)
    assert "submit" not in later


async def test_lasting_objects_are_excluded_from_garbage_collection_again_when_requests_have_made_more() -> None:
    thresholds = gc.get_threshold()
    try:
        gc.set_threshold(700, 10, 10)
        freeze_lasting_objects(again_s=0.01)
        later: list[object] = []

        async def is_frozen() -> bool:
            return not any(found is later for found in gc.get_objects())

        await until(is_frozen)
        assert gc.get_threshold() == (700, 10, 50)
    finally:
        gc.set_threshold(*thresholds)


def test_connections_that_wait_are_accepted_in_few_iterations_of_the_loop() -> None:
    async def iterations_for(connections: int) -> int:
        bound, _ = listening()
        running = server(PlainTextResponse("here"), "127.0.0.1", 0)
        serving = asyncio.create_task(running.serve([bound]))

        async def has_started() -> bool:
            return running.started

        await until(has_started)
        clients = [socket.create_connection(bound.getsockname()) for _ in range(connections)]
        iterations = 0
        while len(running.server_state.connections) < connections:
            await asyncio.sleep(0)
            iterations += 1
        for client in clients:
            client.close()
        running.should_exit = True
        await serving
        return iterations

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(iterations_for(80)) < 20


HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


async def test_a_websocket_handshake_is_an_ordinary_request_and_its_url_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    bound, address = listening()
    with bound:
        running = uvicorn.Server(server(PlainTextResponse("here"), "127.0.0.1", 0).config)
        serving = asyncio.create_task(running.serve([bound]))
        async with httpx.AsyncClient(base_url=address, headers=HANDSHAKE, timeout=60) as client:
            answer = await client.get("/callbacks/sub_1/TOKEN?sig=TOKEN")
        running.should_exit = True
        await serving

    assert answer.text == "here"
    assert "TOKEN" not in "".join(record.getMessage() for record in caplog.records if record.name != "httpx")
