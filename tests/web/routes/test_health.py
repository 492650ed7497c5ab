"""Liveness and readiness, with the texts of failed checks."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

from app.db import Connection
from app.db.engine.database import open_database
from app.security.keyring import KeyRing
from app.web.routes.health import IDENTITY, readyz
from tests.databases import listening_for
from tests.faults import Trip, failing_transaction
from tests.world import World


async def test_a_process_that_answers_is_healthy(world: World) -> None:
    answer = await world.outsider.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_only_an_installation_with_the_same_keys_answers_a_challenge(world: World) -> None:
    challenge = "a-challenge-of-the-operator"
    proof = (await world.outsider.get("/healthz", params={"challenge": challenge})).json()["proof"]

    assert world.use.keys.proves(challenge.encode(), IDENTITY, proof)
    assert not world.use.keys.proves(b"another-challenge-of-it", IDENTITY, proof)
    assert not KeyRing(("another-ring-key-for-tests-0123456789",)).proves(challenge.encode(), IDENTITY, proof)
    assert (await world.outsider.get("/healthz?challenge=short")).status_code == 422


async def test_a_service_that_can_work_is_ready(each_world: World) -> None:
    answer = await each_world.outsider.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "checks": {"database": "ok", "store": "ok", "provider": "ok"},
        "notes": [],
    }


async def test_the_check_of_the_store_leaves_nothing_in_it(world: World) -> None:
    await world.outsider.get("/readyz")

    assert list((world.use.scratch / "images").iterdir()) == []


async def test_a_store_that_cannot_be_written_is_not_ready(world: World) -> None:
    images = world.use.scratch / "images"
    shutil.rmtree(images)
    images.write_text("a file where the folder was")

    answer = await world.outsider.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    assert answer.json()["checks"]["store"].startswith("the image store cannot be used")


async def test_a_database_without_its_tables_is_not_ready(world: World, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "fluxhook.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()

    answer = await world.outsider.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "migrations are missing: run `fluxhook migrate`"


async def test_a_database_that_cannot_be_read_is_not_ready_and_the_process_lives(world: World, tmp_path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"fluxhook.db{end}").unlink(missing_ok=True)
    (tmp_path / "fluxhook.db").mkdir()

    answer = await world.outsider.get("/readyz")

    assert answer.status_code == 503
    assert (await world.outsider.get("/healthz")).status_code == 200


async def test_a_read_only_database_is_not_ready(world: World, postgres_url: str) -> None:
    async with open_database(postgres_url) as standby:
        with listening_for(standby, "begin", _refuse_writes):
            answer = await readyz(replace(world.use, db=standby))

    assert answer.status_code == 503
    assert b"the database is read-only" in bytes(answer.body)


def _refuse_writes(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL default_transaction_read_only = on").close()


async def test_a_database_that_fails_while_the_notes_are_read_is_not_ready(each_world: World) -> None:
    with failing_transaction(each_world.use.db, Trip(2)):
        answer = await each_world.outsider.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["database"].startswith("the database cannot be")
    assert answer.json()["checks"]["store"] == "ok"


async def test_without_a_provider_key_it_is_not_ready(world: World) -> None:
    answer = await readyz(replace(world.use, provider=None))

    assert answer.status_code == 503
    assert b"no API key is configured" in bytes(answer.body)
