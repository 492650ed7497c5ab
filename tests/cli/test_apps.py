"""`apps`, run against a real service."""

import json

from app import ids
from app.clock import utc_now
from app.db import Connection
from app.db.engine.database import open_database
from app.db.tables import api_keys
from app.db.tables.api_keys import NewApiKey
from tests.cli.test_commands import Terminal, terminal

__all__ = ["terminal"]


async def test_an_application_is_added_changed_and_disabled(terminal: Terminal) -> None:
    app_id = (await terminal.run("apps", "add", "shop", "--budget", "40/day", "--no-join-retries")).stdout.strip()
    shown = json.loads((await terminal.run("apps", "show", app_id)).stdout)
    changed = json.loads((await terminal.run("apps", "change", app_id, "--join-retries", "--name", "store")).stdout)
    await terminal.run("apps", "disable", app_id)
    listed = json.loads((await terminal.run("apps", "list", "--json")).stdout)

    assert (shown["budget"], shown["join_retries"]) == ({"credits": 40, "period": "day"}, False)
    assert (changed["name"], changed["join_retries"], changed["budget"]) == ("store", True, shown["budget"])
    assert [row["disabled_at"] is not None for row in listed if row["id"] == app_id] == [True]


async def test_a_change_without_anything_to_change_is_refused(terminal: Terminal) -> None:
    done = await terminal.run("apps", "change", "app_admin")

    assert done.exit_code == 1
    assert "--no-join-retries" in done.stderr


async def test_the_days_for_which_data_is_kept_are_set_and_changed(terminal: Terminal) -> None:
    app_id = (await terminal.run("apps", "add", "shop", "--keep", "images=30", "--keep", "inputs=7")).stdout.strip()
    changed = await terminal.run("apps", "change", app_id, "--keep", "tasks=0", "--keep", "inputs=")
    wrong = [await terminal.run("apps", "change", app_id, "--keep", given) for given in ("pictures=3", "images=-1")]

    assert json.loads(changed.stdout)["retention_days"] == {"images": 30, "inputs": None, "tasks": 0}
    assert ["is not CLASS=DAYS" in done.stderr for done in wrong] == [True, True]


async def test_all_applications_and_keys_are_listed_however_many_pages_they_fill(terminal: Terminal) -> None:
    def fill(connection: Connection) -> None:
        for number in range(1100):
            key = NewApiKey(ids.new_id("key", utc_now()), f"shop {number}", f"{number:064}", ["read"], utc_now())
            api_keys.put(connection, key)

    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(fill)
    listed = [json.loads((await terminal.run(group, "list", "--json")).stdout) for group in ("apps", "keys")]

    for rows in listed:
        assert len({row["id"] for row in rows}) == len(rows) == 1101


async def test_the_webhook_for_all_tasks_of_an_application_is_set_changed_and_removed(terminal: Terminal) -> None:
    options = ("--webhook-secret", "hush", "--webhook-form", "event", "--webhook-events", "submitted, stored")
    added = await terminal.run("apps", "add", "shop", "--webhook-url", "https://app.example.com/flux", *options)
    app_id = added.stdout.strip()
    shown = json.loads((await terminal.run("apps", "show", app_id)).stdout)
    renamed = await terminal.run("apps", "change", app_id, "--webhook-form", "", "--webhook-events", "")
    removed = await terminal.run("apps", "change", app_id, "--webhook-url", "", "--webhook-secret", "")
    wrong = await terminal.run("apps", "change", app_id, "--webhook-url", "https://10.0.0.1/")

    assert shown["webhook"] == {
        "url": "https://app.example.com/flux",
        "form": "event",
        "events": ["stored", "submitted"],
    }
    assert json.loads(renamed.stdout)["webhook"] == {**shown["webhook"], "form": "provider", "events": []}
    assert json.loads(removed.stdout)["webhook"] is None
    assert (wrong.exit_code, "webhook_url" in wrong.stderr) == (1, True)


async def test_the_secret_can_be_read_from_standard_input(terminal: Terminal) -> None:
    app_id = (await terminal.run("apps", "add", "shop")).stdout.strip()
    options = ("apps", "change", app_id, "--webhook-url", "https://app.example.com/", "--webhook-secret", "-")
    refused = await terminal.run(*options, stdin="whsec_short\n")
    empty = await terminal.run(*options, stdin="")
    changed = await terminal.run(*options, stdin="hush\n")

    assert (refused.exit_code, "webhook_secret" in refused.stderr) == (1, True)
    assert (empty.exit_code, "the standard input is empty" in empty.stderr) == (1, True)
    assert json.loads(changed.stdout)["webhook"]["url"] == "https://app.example.com/"
