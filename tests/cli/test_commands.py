"""The commands from a terminal, against a real service: what they print, and how they exit."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from app import jobs
from app.cli import commands
from app.cli.serve import prepare
from app.clock import utc_now
from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables import api_keys
from app.jobs import Step
from app.main import create_app
from app.security.keyring import KeyRing
from app.settings import Settings
from app.twin import build
from app.wiring import open_resources
from tests.pictures import picture
from tests.rows import START, WORKER, ask, plan_task
from tests.sockets import listening, serving
from tests.world import ADMIN_KEY


@dataclass
class Terminal:
    """A terminal whose environment leads to a service that runs."""

    env: dict[str, str]
    folder: Path

    async def run(self, *arguments: str, **env: str) -> Result:
        with capture_logs():  # the service's lines are not the command's output, and share its stdout here
            return await asyncio.to_thread(CliRunner().invoke, commands(), arguments, env={**self.env, **env})


@pytest.fixture
async def terminal(tmp_path: Path) -> AsyncGenerator[Terminal]:
    theirs, their_address = listening()
    ours, our_address = listening()
    env = {
        "FLUXHOOK_DATA_DIR": str(tmp_path / "data"),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_PORT": our_address.rpartition(":")[2],
        "FLUXHOOK_PUBLIC_URL": our_address,
        "FLUXHOOK_BFL_BASE_URL": their_address,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
    }
    settings = Settings.from_env(env)
    await prepare(settings)
    async with (
        serving(build(ready_after_s=0.1, seed=1), theirs),
        serving(create_app(open_resources(settings)), ours),
        httpx.AsyncClient(base_url=their_address) as twin,
    ):
        (await twin.put("/twin/rules", json={"megapixels": 0.05})).raise_for_status()
        yield Terminal(env, tmp_path)


async def test_a_task_is_submitted_told_and_its_image_written(terminal: Terminal) -> None:
    photo, out = terminal.folder / "in.png", terminal.folder / "out.png"
    photo.write_bytes(picture())
    done = await terminal.run("submit", "make it sepia", "--image", str(photo), "--seed", "7", "--out", str(out))
    listed = await terminal.run("tasks", "--json", "--status", "stored")
    (task,) = json.loads(listed.stdout)

    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == task["id"]
    assert "its signature is right" in done.stderr
    assert "stored" in done.stderr
    assert task["params"]["seed"] == 7
    assert hashlib.sha256(out.read_bytes()).hexdigest() == task["image"]["sha256"]


async def test_without_waiting_only_the_id_is_printed_and_watching_it_tells_the_rest(terminal: Terminal) -> None:
    posted = await terminal.run("submit", "a lighthouse")
    watched = await terminal.run("watch", posted.stdout.strip())
    table = await terminal.run("tasks")

    assert (posted.exit_code, watched.exit_code) == (0, 0)
    assert "submitted: the provider took it" in watched.stdout
    assert posted.stdout.strip() in table.stdout
    assert "a lighthouse" in table.stdout


async def test_a_task_that_fails_says_why_and_exits_with_1(terminal: Terminal) -> None:
    done = await terminal.run("submit", "an unsafe result", "--wait")

    assert done.exit_code == 1
    assert "content_moderated" in done.stderr
    assert "money spent: maybe" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "reason"),
    [
        (["submit", " "], {}, "HTTP 422"),
        (["tasks", "--key", "wrong"], {}, "HTTP 401"),
        (["watch", "task_none"], {}, "there is no such task (HTTP 404)"),
        (["tasks", "--url", "http://127.0.0.1:9"], {}, "no service answers at http://127.0.0.1:9"),
        (["tasks"], {"FLUXHOOK_ADMIN_KEY": "", "FLUXHOOK_DATA_DIR": "/nowhere"}, "no key: give --key"),
        (["tasks"], {"FLUXHOOK_ADMIN_KEY": "", "FLUXHOOK_DATA_DIR": "/dev/null"}, "no key: give --key"),
    ],
    ids=["refused", "wrong key", "unknown", "nobody there", "no key", "no folder"],
)
async def test_what_goes_wrong_ends_a_command_with_one_sentence(
    terminal: Terminal, arguments: list[str], env: dict[str, str], reason: str
) -> None:
    done = await terminal.run(*arguments, **env)

    assert done.exit_code == 1
    assert done.stderr.startswith("fluxhook: ")
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_five_images_are_too_many_before_anything_is_sent(terminal: Terminal) -> None:
    photo = terminal.folder / "in.png"
    photo.write_bytes(picture())
    done = await terminal.run("submit", "x", *["--image", str(photo)] * 5)

    assert (done.exit_code, done.stderr) == (1, "fluxhook: at most 4 images\n")


# doctor


async def test_a_healthy_service_has_nothing_wrong_and_no_secret_is_shown(terminal: Terminal) -> None:
    done = await terminal.run("doctor")

    assert done.exit_code == 0, done.output
    assert "wrong" not in done.stdout
    assert "it answers, its schema is this version's" in done.stdout
    assert "leads to Fluxhook" in done.stdout
    assert "a-provider-key" not in done.output
    assert ADMIN_KEY not in done.output


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"FLUXHOOK_BFL_API_KEY": ""}, "FLUXHOOK_BFL_API_KEY is not set"),
        ({"FLUXHOOK_BFL_API_KEY": "bad"}, "it refuses the API key"),
        ({"FLUXHOOK_BFL_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9"),
        ({"FLUXHOOK_PUBLIC_URL": "http://127.0.0.1:9"}, "does not answer from here"),
        ({"FLUXHOOK_ADMIN_KEY": "0123456789abcde"}, "it has fewer than 16 characters"),
        ({"FLUXHOOK_NO_SUCH_THING": "1"}, "FLUXHOOK_NO_SUCH_THING"),
        ({"FLUXHOOK_DATA_DIR": "/dev/null/data"}, "data folder: /dev/null cannot be written by user"),
    ],
    ids=["no key", "bad key", "no provider", "no callbacks", "short admin key", "unknown setting", "no folder"],
)
async def test_what_is_wrong_is_named_and_makes_the_exit_code_1(
    terminal: Terminal, env: dict[str, str], reason: str
) -> None:
    done = await terminal.run("doctor", **env)

    assert done.exit_code == 1
    assert "wrong" in done.stdout
    assert reason in done.stdout


async def test_before_the_first_start_nothing_is_wrong_with_what_is_not_there_yet(
    terminal: Terminal, tmp_path: Path
) -> None:
    done = await terminal.run("doctor", FLUXHOOK_DATA_DIR=str(tmp_path / "new"), FLUXHOOK_PUBLIC_URL="")

    assert done.exit_code == 0, done.output
    assert done.stdout.count("not there yet") == 2
    assert "no callbacks, results are polled" in done.stdout


async def test_a_schema_that_a_newer_version_left_is_called_that(terminal: Terminal) -> None:
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(
            lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").close()
        )
    done = await terminal.run("doctor")

    assert done.exit_code == 0, done.output
    assert "its schema is that of a newer version" in done.stdout


async def test_a_database_that_takes_no_writes_is_wrong(terminal: Terminal, postgres_url: str) -> None:
    address = make_url(postgres_url).update_query_dict({"options": "-c default_transaction_read_only=on"})
    done = await terminal.run(
        "doctor",
        FLUXHOOK_DATABASE_URL=address.render_as_string(hide_password=False),
        FLUXHOOK_SECRET_KEYS="n" * 40,
    )

    assert done.exit_code == 1
    assert "database: the database is read-only" in done.stdout


async def test_why_a_database_cannot_be_reached_is_told(terminal: Terminal) -> None:
    address = "postgresql://fluxhook:hunter2@127.0.0.1:9/fluxhook"
    done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=address, FLUXHOOK_SECRET_KEYS="n" * 40)

    assert done.exit_code == 1
    assert "the database cannot be reached at the moment: " in done.stdout
    assert "Connect call failed" in done.stdout
    assert "hunter2" not in done.output


async def test_a_password_in_the_address_of_the_database_is_not_shown(terminal: Terminal) -> None:
    address = "postgresql:///fluxhook?host=127.0.0.1&port=9&user=fluxhook&password=hunter2"
    done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=address, FLUXHOOK_SECRET_KEYS="n" * 40)

    assert "host=127.0.0.1" in done.stdout
    assert "hunter2" not in done.output


async def test_what_still_needs_each_secret_key_is_told_before_one_is_removed(terminal: Terminal) -> None:
    new, old = "n" * 40, "o" * 40
    only_old = KeyRing((old,))
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:

        def use_both(connection: Connection) -> None:
            for name, signing_key_id in (("1", KeyRing((new,)).newest), ("2", only_old.newest), ("3", only_old.newest)):
                ask(connection, name, utc_now(), signing_key_id=signing_key_id)
            sealed = only_old.seal(b"a webhook secret", "a purpose", bytes(12))
            api_keys.change(connection, api_keys.ADMIN_ID, webhook_secret=sealed)
            plan_task(connection, "4", signing_key_id=only_old.newest, webhook_secret=sealed)

        await database.write(use_both)
    rotated = await terminal.run("doctor", FLUXHOOK_SECRET_KEYS=f"{new},{old}")
    too_soon = await terminal.run("doctor", FLUXHOOK_SECRET_KEYS=new)

    assert rotated.exit_code == 0, rotated.output
    assert "key 1 is needed by 1 task at the provider, 0 webhook secrets of API keys and 0 of tasks" in rotated.stdout
    assert "key 2 is needed by 2 tasks at the provider, 1 webhook secret of API keys and 1 of tasks" in rotated.stdout
    assert new not in rotated.output
    assert too_soon.exit_code == 1
    assert (
        "removed from the ring that is needed by 2 tasks at the provider, 1 webhook secret of API keys and 1 of tasks"
        in too_soon.stdout
    )


async def test_jobs_that_were_set_aside_are_listed_and_run_again(terminal: Terminal) -> None:
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:

        def set_aside(connection: Connection) -> None:
            jobs.enqueue(connection, [(Step.RECONCILE, "task_gone", START)])
            for job in jobs.claim(connection, WORKER, START, 1, [Step.RECONCILE]):
                jobs.dead_letter(connection, job, "KeyError")

        await database.write(set_aside)
    listed = await terminal.run("jobs")
    (number,) = [line.split()[0] for line in listed.stdout.splitlines() if "task_gone" in line]
    unknown = await terminal.run("jobs", "--requeue", "4711")
    again = await terminal.run("jobs", "--requeue", number)
    all_of_them = await terminal.run("jobs", "--requeue-all")

    assert "KeyError" in listed.stdout
    assert (again.stdout, all_of_them.stdout) == ("1 run again\n", "0 run again\n")
    assert (unknown.exit_code, "no such job" in unknown.stderr) == (1, True)


def test_whoever_asks_for_nothing_known_is_shown_all_commands() -> None:
    names = [each.name or each.callback.__name__ for each in commands().registered_commands if each.callback]

    assert {"serve", "work", "migrate", "twin", "demo", "submit", "doctor", "version"} <= set(names)
