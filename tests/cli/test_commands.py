"""Output and exit codes of the commands, run against a real service."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shutil import copyfile

import httpx
import pytest
from sqlalchemy import make_url, text
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from app import jobs
from app.cli import commands
from app.cli.serve import prepare
from app.clock import utc_now
from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables import api_keys, downloads, provider_accounts, spooled_results, task_updates
from app.db.tables.api_keys import ApiKeyChange
from app.db.tables.downloads import Download
from app.db.tables.webhook_defaults import WebhookDefaults
from app.jobs import NewJob, Step
from app.main import create_app
from app.rules.task import Status
from app.security.keyring import KeyRing
from app.settings import Settings
from app.transitions.announce import Announcement, announce
from app.twin import build
from app.wiring import open_resources
from tests.databases import connection_to
from tests.pictures import picture
from tests.postgres import Postgres
from tests.rows import START, WORKER, plan_task, put_sent_task
from tests.sockets import listening, serving
from tests.world import ADMIN_KEY

# Hides the clock of the server from the statements of the service.
AN_HOUR_BEHIND = """
CREATE FUNCTION frozen.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
    $$ SELECT pg_catalog.clock_timestamp() - interval '1 hour' $$
"""


def hide_clock(connection: Connection) -> None:
    connection.execute(text(AN_HOUR_BEHIND))


@dataclass
class Terminal:
    """A terminal whose environment points to a running service."""

    env: dict[str, str]
    folder: Path

    async def run(self, *arguments: str, stdin: str | None = None, **env: str) -> Result:
        with (
            capture_logs()
        ):  # the service shares stdout with the command here, and its log lines are not the command's output
            given = {**self.env, **env}
            return await asyncio.to_thread(CliRunner().invoke, commands(), arguments, input=stdin, env=given)


@pytest.fixture
async def terminal(tmp_path: Path, sqlite_template: Path) -> AsyncGenerator[Terminal]:
    twin_socket, twin_url = listening()
    service_socket, service_url = listening()
    env = {
        "FLUXHOOK_DATA_DIR": str(tmp_path / "data"),
        "FLUXHOOK_HOST": "127.0.0.1",
        "FLUXHOOK_PORT": service_url.rpartition(":")[2],
        "FLUXHOOK_PUBLIC_URL": service_url,
        "FLUXHOOK_BFL_BASE_URL": twin_url,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
    }
    settings = Settings.from_env(env)
    settings.data_dir.mkdir(mode=0o700)
    copyfile(sqlite_template, settings.data_dir / "fluxhook.db")
    await prepare(settings)
    async with (
        serving(build(ready_after_s=0.1, seed=1), twin_socket),
        serving(create_app(open_resources(settings)), service_socket),
        httpx.AsyncClient(base_url=twin_url, timeout=60) as twin,
    ):
        (await twin.put("/twin/rules", json={"megapixels": 0.05})).raise_for_status()
        yield Terminal(env, tmp_path)


async def test_submit_with_out_prints_the_timeline_and_writes_the_image(terminal: Terminal) -> None:
    photo, out = terminal.folder / "in.png", terminal.folder / "out.png"
    photo.write_bytes(picture())
    done = await terminal.run("submit", "make it sepia", "--image", str(photo), "--seed", "7", "--out", str(out))
    listed = await terminal.run("tasks", "--json", "--status", "stored")
    (task,) = json.loads(listed.stdout)

    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == task["id"]
    assert "it has the shared secret" in done.stderr
    assert "stored" in done.stderr
    assert task["params"]["seed"] == 7
    assert hashlib.sha256(out.read_bytes()).hexdigest() == task["image"]["sha256"]


async def test_submit_prints_only_the_id_and_watch_prints_the_timeline(terminal: Terminal) -> None:
    posted = await terminal.run("submit", "a lighthouse")
    watched = await terminal.run("watch", posted.stdout.strip())
    table = await terminal.run("tasks")

    assert (posted.exit_code, watched.exit_code) == (0, 0)
    assert "submitted: the provider accepted it" in watched.stdout
    assert posted.stdout.strip() in table.stdout
    assert "a lighthouse" in table.stdout


async def test_a_failed_task_prints_its_failure_and_exits_with_1(terminal: Terminal) -> None:
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
        (["tasks", "--url", "http://127.0.0.1:9"], {}, "no response from http://127.0.0.1:9"),
        (["tasks"], {"FLUXHOOK_ADMIN_KEY": "", "FLUXHOOK_DATA_DIR": "/nowhere"}, "no API key found: give --key"),
        (["tasks"], {"FLUXHOOK_ADMIN_KEY": "", "FLUXHOOK_DATA_DIR": "/dev/null"}, "no API key found: give --key"),
    ],
    ids=["refused", "wrong key", "unknown", "no service", "no key", "no folder"],
)
async def test_an_error_ends_a_command_with_one_sentence(
    terminal: Terminal, arguments: list[str], env: dict[str, str], reason: str
) -> None:
    done = await terminal.run(*arguments, **env)

    assert done.exit_code == 1
    assert done.stderr.startswith("fluxhook: ")
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_five_images_are_refused_before_anything_is_sent(terminal: Terminal) -> None:
    photo = terminal.folder / "in.png"
    photo.write_bytes(picture())
    done = await terminal.run("submit", "x", *["--image", str(photo)] * 5)

    assert (done.exit_code, done.stderr) == (1, "fluxhook: flux-kontext-pro takes at most 4 images\n")


async def test_submit_takes_the_parameters_and_images_of_any_model(terminal: Terminal) -> None:
    photo = terminal.folder / "in.png"
    photo.write_bytes(picture())
    made = [
        await terminal.run("submit", *arguments)
        for arguments in (
            ("a fox", "--model", "flux-2-pro", "-p", "width=256", "-p", "user=7", "-p", "disable_pup=true"),
            ("a fox", "--model", "flux-3-image", "--image", str(photo), "--image", str(photo), "-p", "resolution=2k"),
            ("--model", "flux-tools/erase-v1", "--image", str(photo), "-p", f"mask=@{photo}", "-p", "dilate_pixels=3"),
        )
    ]
    listed = await terminal.run("tasks", "--json")
    erased, many, wide = [task["params"] for task in json.loads(listed.stdout)]

    assert [done.exit_code for done in made] == [0, 0, 0], [done.output for done in made]
    assert (wide["width"], wide["user"], wide["disable_pup"]) == (256, "7", True)
    assert (many["resolution"], [image["field"] for image in many["images"]]) == ("2k", ["images[0]", "images[1]"])
    assert (erased["dilate_pixels"], [image["field"] for image in erased["images"]]) == (3, ["image", "mask"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "width"], "width is not NAME=VALUE"),
        (["-p", "input_image=@missing.png"], "there is no file missing.png"),
        (["-p", "width=wide", "--model", "flux-2-pro"], "width: must be an integer"),
        (["--model", "flux-9", "-p", "x=1"], "there is no such model in the catalog"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_parameter_is_named(terminal: Terminal, arguments: list[str], words: str) -> None:
    done = await terminal.run("submit", "a fox", *arguments)

    assert done.exit_code in {1, 2}
    assert words in " ".join(done.stderr.split())


async def test_models_lists_the_catalog_and_the_parameters_of_one(terminal: Terminal) -> None:
    listed = await terminal.run("models")
    one = await terminal.run("models", "flux-2-pro")
    as_json = await terminal.run("models", "flux-3-image", "--json")
    unknown = await terminal.run("models", "flux-9")

    assert {"flux-3-image", "flux-tools/vto-v2"} <= set(listed.stdout.split())
    assert "video: not served" in listed.stdout
    assert "width" in one.stdout
    assert "integer, at least 64" in one.stdout
    assert json.loads(as_json.stdout)["strict"] is True
    assert unknown.exit_code == 1


async def test_doctor_says_which_models_are_polled(terminal: Terminal) -> None:
    with_callbacks = await terminal.run("doctor")
    without = await terminal.run("doctor", FLUXHOOK_PUBLIC_URL="")

    assert "models: 30 are served; polled, as they accept no webhook: flux-3-image, " in with_callbacks.stdout
    assert "models: 30 are served, all polled" in without.stdout


async def test_doctor_names_a_wrong_row_of_the_operators_file(terminal: Terminal) -> None:
    file = terminal.folder / "models.json"
    file.write_text('{"models": [{"id": "flux-9"}]}')
    done = await terminal.run("doctor", FLUXHOOK_MODELS_FILE=str(file))

    assert done.exit_code == 1
    assert "models: FLUXHOOK_MODELS_FILE: models.json: models[0] (flux-9): request is required" in done.stdout


async def test_doctor_asks_the_provider_about_each_model_and_is_not_charged(terminal: Terminal) -> None:
    file = terminal.folder / "models.json"
    row = {"id": "flux-9", "request": {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}}}
    file.write_text(json.dumps({"models": [row]}))
    known = await terminal.run("doctor", "--models")
    unknown = await terminal.run("doctor", "--models", FLUXHOOK_MODELS_FILE=str(file))
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_BFL_BASE_URL"], timeout=60) as twin:
        ledger = (await twin.get("/twin/ledger")).json()

    assert known.exit_code == 0, known.output
    assert "model flux-tools/erase-v1: the provider accepts its path and the API key (HTTP 422" in known.stdout
    assert "model flux-pro-1.1: not checked: it requires no parameter" in known.stdout
    assert unknown.exit_code == 1
    assert "model flux-9: the provider does not know its path (HTTP 404)" in unknown.stdout
    assert (ledger["accepted"], ledger["charged"]) == (0, 0)


@pytest.mark.parametrize("name", ["missing/out.png", "."], ids=["missing folder", "a folder"])
async def test_an_unusable_output_path_is_refused_before_anything_is_sent(terminal: Terminal, name: str) -> None:
    done = await terminal.run("submit", "a fox", "--out", str(terminal.folder / name))
    listed = await terminal.run("tasks", "--json")

    assert done.exit_code == 2
    assert "--out" in done.stderr
    assert json.loads(listed.stdout) == []


async def test_an_image_that_cannot_be_written_is_named_with_its_task_and_without_a_traceback(
    terminal: Terminal,
) -> None:
    done = await terminal.run("submit", "a fox", "--out", "/dev/full")

    assert done.exit_code == 1
    assert re.search(r"/dev/full cannot be written: .*; the image of task_\w+ is still in the service", done.stderr)


async def test_a_file_that_cannot_be_created_is_refused_before_anything_is_sent(terminal: Terminal) -> None:
    done = await terminal.run("submit", "a fox", "--out", "/proc/x.png")

    assert done.exit_code == 2
    assert "--out" in done.stderr


# doctor


async def test_a_healthy_service_has_no_unhealthy_finding_and_no_secret_is_shown(terminal: Terminal) -> None:
    done = await terminal.run("doctor")

    assert done.exit_code == 0, done.output
    assert "unhealthy" not in done.stdout
    assert "it answers, and its schema is up to date" in done.stdout
    assert "leads to Fluxhook, and callbacks arrive there unchanged" in done.stdout
    assert "a-provider-key" not in done.output
    assert ADMIN_KEY not in done.output


async def test_doctor_says_which_settings_are_set_have_a_default_or_are_unset(terminal: Terminal) -> None:
    done = await terminal.run("doctor", FLUXHOOK_CONTACT="")
    lines = done.stdout.splitlines()

    assert lines[0].startswith("Settings from the FLUXHOOK_ variables of this environment, 7 set.")
    assert "set        FLUXHOOK_BFL_API_KEY: set, not shown" in lines
    assert "default    FLUXHOOK_PROVIDER: bfl" in lines
    assert "unset      FLUXHOOK_CONTACT" in lines


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"FLUXHOOK_BFL_API_KEY": ""}, "FLUXHOOK_BFL_API_KEY is not set"),
        ({"FLUXHOOK_BFL_API_KEY": "bad"}, "it refuses the API key"),
        ({"FLUXHOOK_BFL_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9"),
        ({"FLUXHOOK_PUBLIC_URL": "http://127.0.0.1:9"}, "cannot be reached from this machine"),
        ({"FLUXHOOK_ADMIN_KEY": "0123456789abcdef0123456"}, "must have at least 24 characters"),
        ({"FLUXHOOK_NO_SUCH_THING": "1"}, "FLUXHOOK_NO_SUCH_THING"),
        ({"FLUXHOOK_DATA_DIR": "/dev/null/data"}, "data folder: /dev/null cannot be written by user"),
        ({"FLUXHOOK_CA_FILE": "/nowhere.pem"}, "FLUXHOOK_CA_FILE: /nowhere.pem cannot be read"),
        (
            {
                "FLUXHOOK_HTTPS_PROXY": "http://127.0.0.1:9",
                "FLUXHOOK_BFL_BASE_URL": "https://api.bfl.ai",
                "FLUXHOOK_PUBLIC_URL": "",
            },
            "https://api.bfl.ai: not reached: the proxy cannot be used",
        ),
    ],
    ids=[
        *("no key", "bad key", "no provider", "no callbacks", "short admin key", "unknown setting", "no folder"),
        *("no CA file", "no proxy"),
    ],
)
async def test_an_unhealthy_finding_is_named_and_makes_the_exit_code_1(
    terminal: Terminal, env: dict[str, str], reason: str
) -> None:
    done = await terminal.run("doctor", **env)

    assert done.exit_code == 1
    assert "unhealthy" in done.stdout
    assert reason in done.stdout


async def test_doctor_names_an_endpoint_of_a_bucket_that_is_not_a_url(terminal: Terminal) -> None:
    done = await terminal.run("doctor", FLUXHOOK_STORE_URL="s3://images", AWS_ENDPOINT_URL="minio:9000")

    assert done.exit_code == 1
    assert "store: AWS_ENDPOINT_URL: must be an http(s) URL" in done.output
    assert isinstance(done.exception, SystemExit)


async def test_another_server_that_answers_healthz_is_not_taken_for_fluxhook(terminal: Terminal) -> None:
    twin = terminal.env["FLUXHOOK_BFL_BASE_URL"]
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"{twin}/healthz")).json() == {"status": "ok"}
    done = await terminal.run("doctor", FLUXHOOK_PUBLIC_URL=twin)

    assert done.exit_code == 1
    assert "leads to Fluxhook" not in done.stdout
    assert f"public URL: {twin} does not lead to this Fluxhook: another server answers /healthz there" in done.stdout


async def test_another_installation_is_not_taken_for_this_one(terminal: Terminal) -> None:
    done = await terminal.run("doctor", FLUXHOOK_SECRET_KEYS="n" * 40)

    assert done.exit_code == 1
    assert "does not lead to this Fluxhook: the Fluxhook there has other FLUXHOOK_SECRET_KEYS" in done.stdout


async def test_before_the_first_start_a_missing_database_and_store_are_not_unhealthy(
    terminal: Terminal, tmp_path: Path
) -> None:
    done = await terminal.run("doctor", FLUXHOOK_DATA_DIR=str(tmp_path / "new"), FLUXHOOK_PUBLIC_URL="")

    assert done.exit_code == 0, done.output
    assert done.stdout.count("does not exist yet") == 2
    assert "no callbacks arrive, results are polled" in done.stdout


async def test_the_schema_of_a_newer_version_is_reported(terminal: Terminal) -> None:
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(
            lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").close()
        )
    done = await terminal.run("doctor")

    assert done.exit_code == 0, done.output
    assert "its schema is from a newer version" in done.stdout


@pytest.mark.parametrize(
    ("reason", "code"),
    [(provider_accounts.KEY_REFUSED, 1), (provider_accounts.BLOCKED, 1), (provider_accounts.NO_FREE_SLOT, 0)],
)
async def test_an_account_that_refuses_every_task_is_unhealthy_and_a_full_one_is_not(
    terminal: Terminal, reason: str, code: int
) -> None:
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:

        def pause(connection: Connection) -> None:
            (account,) = provider_accounts.list_all(connection)
            now = utc_now()
            provider_accounts.pause(connection, account.id, now, now + timedelta(minutes=10), reason, 1)

        await database.write(pause)
    done = await terminal.run("doctor")

    assert done.exit_code == code
    assert any(
        line.endswith(f": {reason}") and ("unhealthy" in line) == bool(code) for line in done.stdout.splitlines()
    )


async def test_a_read_only_database_is_unhealthy(terminal: Terminal, postgres_url: str) -> None:
    address = make_url(postgres_url).update_query_dict({"options": "-c default_transaction_read_only=on"})
    done = await terminal.run(
        "doctor",
        FLUXHOOK_DATABASE_URL=address.render_as_string(hide_password=False),
        FLUXHOOK_SECRET_KEYS="n" * 40,
    )

    assert done.exit_code == 1
    assert "database: the database is read-only" in done.stdout


async def test_a_clock_that_differs_from_the_databases_is_unhealthy(
    terminal: Terminal, postgres: Postgres, postgres_template: str
) -> None:
    url = await postgres.create("of_another_hour", postgres_template)
    await postgres.use_clock("of_another_hour")
    async with open_database(url) as database:
        await database.write(hide_clock)
    done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=url, FLUXHOOK_SECRET_KEYS="n" * 40)
    await postgres.drop("of_another_hour")

    assert done.exit_code == 1
    assert "unhealthy  clock: the clock of this machine is 3600." in done.stdout
    assert "ahead of the database's, which is used instead: synchronise the clocks" in done.stdout


async def test_doctor_names_the_transaction_that_holds_the_feed_back(terminal: Terminal, postgres_url: str) -> None:
    def happened(connection: Connection) -> None:
        plan_task(connection)
        announce(connection, [Announcement("task_1", Status.QUEUED)], utc_now() - timedelta(hours=1))

    async with open_database(postgres_url) as database, connection_to(f"{postgres_url}&application_name=psql") as other:
        await other.execute(text("SELECT pg_current_xact_id()"))
        await database.write(happened)
        done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=postgres_url, FLUXHOOK_SECRET_KEYS="n" * 40)

    assert done.exit_code == 1
    (line,) = [line for line in done.stdout.splitlines() if "  feed: " in line]
    assert line.startswith("unhealthy  feed: events of the feed are late")
    assert "(psql, idle in transaction), open for 0:00:" in line


async def test_the_cause_of_an_unreachable_database_is_shown(terminal: Terminal) -> None:
    address = "postgresql://fluxhook:hunter2@127.0.0.1:9/fluxhook"
    done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=address, FLUXHOOK_SECRET_KEYS="n" * 40)

    assert done.exit_code == 1
    assert "the database cannot be reached at the moment: " in done.stdout
    assert "Connect call failed" in done.stdout
    assert "hunter2" not in done.output


async def test_a_connection_pooler_is_reported(terminal: Terminal, pooled: Postgres, postgres_url: str) -> None:
    env = {
        "FLUXHOOK_DATABASE_URL": pooled.address(str(make_url(postgres_url).database)),
        # Those of the service at the public URL, which doctor asks for a proof.
        "FLUXHOOK_SECRET_KEYS": (terminal.folder / "data" / "secret_keys").read_text().strip(),
    }
    polled = await terminal.run("doctor", **env)
    direct = await terminal.run("doctor", FLUXHOOK_DATABASE_DIRECT_URL=postgres_url, **env)

    assert (polled.exit_code, direct.exit_code) == (0, 0), polled.output
    assert "it answers through a connection pooler (notifications between processes take a second" in polled.stdout
    assert "it answers through a connection pooler, and its schema is up to date" in direct.stdout


async def test_the_words_of_a_pooler_that_refuses_a_connection_are_shown(terminal: Terminal, pooled: Postgres) -> None:
    address = f"{pooled.dsn}&options=-c%20work_mem%3D5MB"
    done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=address, FLUXHOOK_SECRET_KEYS="n" * 40)

    assert done.exit_code == 1
    assert "unsupported startup parameter: options" in done.stdout


async def test_a_direct_url_to_another_database_is_unhealthy(
    terminal: Terminal, postgres: Postgres, postgres_url: str
) -> None:
    done = await terminal.run(
        "doctor",
        FLUXHOOK_DATABASE_URL=postgres_url,
        FLUXHOOK_DATABASE_DIRECT_URL=postgres.dsn,
        FLUXHOOK_SECRET_KEYS="n" * 40,
    )

    assert done.exit_code == 1
    assert "FLUXHOOK_DATABASE_DIRECT_URL: leads to another database" in done.stdout


async def test_a_password_in_the_database_url_is_not_shown(terminal: Terminal) -> None:
    address = "postgresql:///fluxhook?host=127.0.0.1&port=9&user=fluxhook&password=hunter2"
    done = await terminal.run("doctor", FLUXHOOK_DATABASE_URL=address, FLUXHOOK_SECRET_KEYS="n" * 40)

    assert "host=127.0.0.1" in done.stdout
    assert "hunter2" not in done.output


async def test_the_uses_of_each_secret_key_are_shown_before_and_after_one_is_removed(terminal: Terminal) -> None:
    new, old = "n" * 40, "o" * 40
    only_old = KeyRing((old,))
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:

        def use_both(connection: Connection) -> None:
            for name, signing_key_id in (("1", KeyRing((new,)).newest), ("2", only_old.newest), ("3", only_old.newest)):
                put_sent_task(connection, name, utc_now(), signing_key_id=signing_key_id)
            sealed = only_old.seal(b"a webhook secret", "a purpose", bytes(12))
            api_keys.change(connection, api_keys.ADMIN_ID, ApiKeyChange(webhook=WebhookDefaults(secret=sealed)))
            later = utc_now() + timedelta(days=1)  # the running service would send a task that is due
            plan_task(connection, "4", signing_key_id=only_old.newest, webhook_secret=sealed, dispatch_after_at=later)

        await database.write(use_both)
    rotated = await terminal.run("doctor", FLUXHOOK_SECRET_KEYS=f"{new},{old}", FLUXHOOK_PUBLIC_URL="")
    too_soon = await terminal.run("doctor", FLUXHOOK_SECRET_KEYS=new, FLUXHOOK_PUBLIC_URL="")

    assert rotated.exit_code == 0, rotated.output
    of_both = "API keys or applications"
    assert f"key 1 is needed by 1 task at the provider, 0 webhook secrets of {of_both} and 0 of tasks" in rotated.stdout
    assert f"key 2 is needed by 2 tasks at the provider, 1 webhook secret of {of_both} and 1 of tasks" in rotated.stdout
    assert new not in rotated.output
    assert too_soon.exit_code == 1
    removed = f"a removed key is needed by 2 tasks at the provider, 1 webhook secret of {of_both} and 1 of tasks"
    assert removed in too_soon.stdout


async def test_doctor_reports_the_notes_of_readyz(terminal: Terminal) -> None:
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(
            lambda connection: spooled_results.record_holder(connection, "sub_1", "host_1", START, tried=True)
        )
    async with httpx.AsyncClient(headers={"x-key": ADMIN_KEY}, timeout=60) as client:
        (note,) = (await client.get(f"{terminal.env['FLUXHOOK_PUBLIC_URL']}/readyz")).json()["notes"]
    done = await terminal.run("doctor")

    assert done.exit_code == 1
    assert f"unhealthy  spool: {note}" in done.stdout


async def test_doctor_names_a_result_that_cannot_be_downloaded(terminal: Terminal) -> None:
    def failing(connection: Connection) -> None:
        task_id = put_sent_task(connection, "1", utc_now())
        task_updates.move(connection, task_id, Status.READY, utc_now())
        downloads.insert(connection, Download("dl_1", task_id, "failed", "HTTP 503", utc_now(), utc_now()))

    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(failing)
    done = await terminal.run("doctor")

    assert done.exit_code == 1
    assert "downloads: the result of task_1 cannot be downloaded yet: HTTP 503" in done.stdout


async def test_dead_letters_are_listed_and_requeued(terminal: Terminal) -> None:
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:

        def add_dead_letter(connection: Connection) -> None:
            jobs.enqueue(connection, [NewJob(Step.RECONCILE, "task_gone", START)])
            for job in jobs.claim(connection, WORKER, START, 1, [Step.RECONCILE]):
                jobs.dead_letter(connection, job, "KeyError")

        await database.write(add_dead_letter)
    examined = await terminal.run("doctor")
    listed = await terminal.run("jobs")
    (number,) = [line.split()[0] for line in listed.stdout.splitlines() if "task_gone" in line]
    unknown = await terminal.run("jobs", "--requeue", "4711")
    again = await terminal.run("jobs", "--requeue", number)
    all_of_them = await terminal.run("jobs", "--requeue-all")

    assert examined.exit_code == 1
    assert "jobs: 1 dead letter; `fluxhook jobs` lists them" in examined.stdout
    assert "KeyError" in listed.stdout
    assert (again.stdout, all_of_them.stdout) == ("1 job is queued again\n", "0 jobs are queued again\n")
    assert (unknown.exit_code, "no such dead letter" in unknown.stderr) == (1, True)


async def test_a_nearly_full_disk_is_reported(terminal: Terminal) -> None:
    done = await terminal.run("doctor", FLUXHOOK_DISK_RESERVE_MB=str(10**12))

    assert done.exit_code == 1
    assert "disk: no tasks are accepted or submitted: the disk of DATA_DIR has" in done.stdout


def test_an_unknown_command_loads_all_commands() -> None:
    registered = commands().registered_commands
    names = [command.name or command.callback.__name__ for command in registered if command.callback]

    assert {"serve", "work", "migrate", "twin", "demo", "submit", "doctor", "version"} <= set(names)
