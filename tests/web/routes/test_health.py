"""Liveness and readiness, with the texts of failed checks."""

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

from app.db import Connection
from app.db.engine.database import open_database
from app.security.keyring import KeyRing
from app.web.routes.health import IDENTITY, read_readiness
from tests.browsing import signed_in
from tests.databases import listening_for
from tests.faults import Trip, failing_transaction
from tests.world import World, with_provider


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
    answer = await each_world.api.get("/readyz")

    assert answer.status_code == 200
    (account,) = answer.json()["accounts"]
    assert (account["slots"], account["slots_in_use"], account["paused_until_at"]) == (24, 0, None)
    assert account["credits"] > 0
    assert answer.json() == {
        "status": "ready",
        "checks": {"database": "ok", "store": "ok", "provider": "ok"},
        "notes": [],
        "accounts": [account],
    }


async def test_the_check_of_the_store_leaves_nothing_in_it(world: World) -> None:
    await world.api.get("/readyz")

    assert list((world.use.scratch / "images").iterdir()) == []


async def test_a_store_that_cannot_be_written_is_not_ready(world: World) -> None:
    images = world.use.scratch / "images"
    shutil.rmtree(images)
    images.write_text("a file where the folder was")

    answer = await world.api.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    assert answer.json()["checks"]["store"].startswith("the image store cannot be used")


async def test_a_database_without_its_tables_is_not_ready(world: World, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "fluxhook.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()

    answer = await world.api.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "migrations are missing: run `fluxhook migrate`"


async def test_a_database_that_cannot_be_read_is_not_ready_and_the_process_lives(world: World, tmp_path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"fluxhook.db{end}").unlink(missing_ok=True)
    (tmp_path / "fluxhook.db").mkdir()

    answer = await world.api.get("/readyz")

    assert answer.status_code == 503
    assert (await world.outsider.get("/healthz")).status_code == 200


async def test_a_read_only_database_is_not_ready(world: World, postgres_url: str) -> None:
    async with open_database(postgres_url) as standby:
        with listening_for(standby, "begin", _refuse_writes):
            found = await read_readiness(replace(world.use, db=standby))

    assert found.status == "not ready"
    assert "the database is read-only" in found.checks["database"]


def _refuse_writes(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL default_transaction_read_only = on").close()


async def test_a_database_that_fails_while_the_notes_are_read_is_not_ready(each_world: World) -> None:
    with failing_transaction(each_world.use.db, Trip(2)):
        found = await read_readiness(each_world.use)

    assert found.status == "not ready"
    assert found.checks["database"].startswith("the database cannot be")
    assert found.checks["store"] == "ok"


async def test_without_a_provider_key_it_is_not_ready(world: World) -> None:
    found = await read_readiness(with_provider(world.use, None))

    assert (found.status, found.checks["provider"]) == ("not ready", "no API key is configured")


class Away(Trip):
    def is_due(self) -> bool:
        return True


async def key_with(world: World, scope: str) -> dict[str, str]:
    made = await world.api.post("/v1/keys", json={"name": f"a key for {scope}", "scopes": [scope]})
    return {"x-key": made.json()["key"]}


async def test_only_a_key_for_the_whole_service_sees_why_it_is_not_ready(world: World) -> None:
    shutil.rmtree(world.use.scratch / "images")
    (world.use.scratch / "images").write_text("a file where the folder was")
    shop, scraper = await key_with(world, "read"), await key_with(world, "metrics")
    seen = {
        name: (await world.outsider.get("/readyz", headers=headers)).json()
        for name, headers in {"no key": {}, "shop": shop, "wrong": {"x-key": "wrong"}, "scraper": scraper}.items()
    }

    assert [seen[name] for name in ("no key", "shop", "wrong")] == [{"status": "not ready"}] * 3
    assert set(seen["scraper"]) == {"status", "checks", "notes", "accounts"}


async def test_while_the_database_is_away_only_an_accepted_key_sees_why_it_is_not_ready(each_world: World) -> None:
    other = await key_with(each_world, "metrics")
    await each_world.api.get("/readyz")
    await signed_in(each_world, "/readyz")
    with failing_transaction(each_world.use.db, Away()):
        accepted = await each_world.api.get("/readyz")
        session = await each_world.outsider.get("/readyz")
        each_world.outsider.cookies.clear()
        others = [await each_world.outsider.get("/readyz", headers=headers) for headers in (other, {})]

    assert [answer.status_code for answer in (accepted, session, *others)] == [503] * 4
    assert "checks" in accepted.json()
    assert [answer.json() for answer in (session, *others)] == [{"status": "not ready"}] * 3
