"""`callbacks`, `deliveries`, `replay` and `keys`, run against a real service."""

import json

import pytest

from app.db.engine.database import open_database
from app.db.queries.callbacks import MAX_SCANNED
from app.db.tables import evidence
from tests.cli.test_commands import Terminal, terminal
from tests.db.queries.test_callbacks import polled
from tests.rows import write_now

__all__ = ["terminal"]

NOWHERE = "https://unknown.invalid/hook"


async def failing_delivery(terminal: Terminal) -> str:
    """Create a delivery to a host that does not exist, and return its ID."""
    created = await terminal.run("keys", "add", "shop", "--webhook-url", NOWHERE)
    key_id, key = created.stdout.split()
    submitted = await terminal.run("submit", "a fox", "--wait", "--key", key)
    listed = await terminal.run("deliveries", "--json", "--task", submitted.stdout.strip())
    (delivery,) = json.loads(listed.stdout)
    assert delivery["url"] == NOWHERE
    await terminal.run("keys", "disable", key_id)
    return str(delivery["id"])


async def test_deliveries_are_listed_shown_and_replayed(terminal: Terminal) -> None:
    delivery_id = await failing_delivery(terminal)
    table = await terminal.run("deliveries")
    detail = json.loads((await terminal.run("deliveries", delivery_id)).stdout)
    one = await terminal.run("replay", delivery_id)
    window = ("--from", "2026-01-01T00:00:00Z", "--to", "2999-01-01T00:00:00Z", "--endpoint", detail["endpoint_id"])
    many = await terminal.run("replay", *window)
    keys = await terminal.run("keys", "list")

    as_json = [await terminal.run("replay", *arguments, "--json") for arguments in ([delivery_id], window)]

    assert [json.loads(done.stdout).get("id", "window") for done in as_json] == [delivery_id, "window"]
    assert json.loads(as_json[1].stdout)["more"] is False
    assert delivery_id in table.stdout
    assert detail["about"] == "stored"
    assert (one.exit_code, one.stdout) == (0, "1 delivery will be sent again\n")
    assert (many.exit_code, many.stdout) == (0, "0 deliveries will be sent again\n")
    assert "shop" in keys.stdout
    assert "admin" in keys.stdout


async def test_a_revoked_key_is_printed_as_json(terminal: Terminal) -> None:
    key_id = (await terminal.run("keys", "add", "shop")).stdout.split()[0]
    revoked = json.loads((await terminal.run("keys", "disable", key_id, "--json")).stdout)

    assert revoked["id"] == key_id
    assert revoked["disabled_at"] is not None


async def test_callbacks_of_the_provider_are_listed(terminal: Terminal) -> None:
    first = (await terminal.run("submit", "a fox", "--wait")).stdout.strip()
    second = (await terminal.run("submit", "a hen", "--wait")).stdout.strip()
    table = await terminal.run("callbacks")
    latest = await terminal.run("callbacks", "--json", "--verdict", "shared_secret", "--limit", "1")
    of_first = await terminal.run("callbacks", "--json", "--task", first)
    forged = await terminal.run("callbacks", "--json", "--verdict", "forged")

    assert (table.exit_code, table.stderr) == (0, "")
    assert all(task_id in table.stdout for task_id in (first, second))
    assert [row["task_id"] for row in json.loads(latest.stdout)] == [second]
    assert {(row["task_id"], row["effect"]) for row in json.loads(of_first.stdout)} == {(first, "moved")}
    assert json.loads(forged.stdout) == []


async def test_a_short_list_of_callbacks_names_the_cursor_for_older_ones(terminal: Terminal) -> None:
    later = [polled(f"{number:05}") for number in range(MAX_SCANNED)]
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(write_now, evidence.upsert, later)
    listed = await terminal.run("callbacks")

    assert listed.exit_code == 0
    assert listed.stderr.startswith("older callbacks may exist: GET /v1/callbacks?cursor=ev_00000")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["replay"], "give either the ID of a delivery, or --from and --to"),
        (["replay", "dlv_1", "--from", "a", "--to", "b"], "give either the ID of a delivery, or --from and --to"),
        (["replay", "dlv_1"], "there is no such delivery (HTTP 404)"),
        (["deliveries", "--state", "lost"], "HTTP 422"),
        (["callbacks", "--verdict", "fetched"], "HTTP 422"),
        (["keys", "disable", "key_admin"], "HTTP 409"),
    ],
    ids=["nothing", "both", "unknown", "no state", "no verdict", "admin key"],
)
async def test_an_error_is_one_sentence(terminal: Terminal, arguments: list[str], reason: str) -> None:
    done = await terminal.run(*arguments)

    assert done.exit_code == 1
    assert reason in done.stderr
