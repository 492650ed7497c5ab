"""`callbacks`, `deliveries`, `replay` and `keys` from a terminal, against a real service."""

import json

import pytest

from app.db.engine.database import open_database
from app.db.queries.callbacks import LOOKED
from app.db.tables import evidence
from tests.cli.test_commands import Terminal, terminal
from tests.db.queries.test_callbacks import polled

__all__ = ["terminal"]

NOWHERE = "https://nobody.invalid/hook"


async def posted(terminal: Terminal) -> str:
    """A delivery to a host that does not exist."""
    made = await terminal.run("keys", "add", "shop", "--webhook-url", NOWHERE)
    key_id, key = made.stdout.split()
    submitted = await terminal.run("submit", "a fox", "--wait", "--key", key)
    listed = await terminal.run("deliveries", "--json", "--task", submitted.stdout.strip())
    (found,) = json.loads(listed.stdout)
    assert found["url"] == NOWHERE
    await terminal.run("keys", "disable", key_id)
    return str(found["id"])


async def test_what_was_told_is_listed_looked_at_and_replayed(terminal: Terminal) -> None:
    delivery_id = await posted(terminal)
    table = await terminal.run("deliveries")
    detail = json.loads((await terminal.run("deliveries", delivery_id)).stdout)
    one = await terminal.run("replay", delivery_id)
    window = ("--from", "2026-01-01T00:00:00Z", "--to", "2999-01-01T00:00:00Z", "--endpoint", detail["endpoint_id"])
    many = await terminal.run("replay", *window)
    keys = await terminal.run("keys", "list")

    assert delivery_id in table.stdout
    assert detail["about"] == "stored"
    assert (one.exit_code, one.stdout) == (0, "1 will be tried again\n")
    assert (many.exit_code, many.stdout) == (0, "0 will be tried again\n")
    assert "shop" in keys.stdout
    assert "admin" in keys.stdout


async def test_what_the_provider_called_back_with_is_listed(terminal: Terminal) -> None:
    first = (await terminal.run("submit", "a fox", "--wait")).stdout.strip()
    second = (await terminal.run("submit", "a hen", "--wait")).stdout.strip()
    table = await terminal.run("callbacks")
    latest = await terminal.run("callbacks", "--json", "--verdict", "signed", "--limit", "1")
    of_first = await terminal.run("callbacks", "--json", "--task", first)
    forged = await terminal.run("callbacks", "--json", "--verdict", "forged")

    assert (table.exit_code, table.stderr) == (0, "")
    assert all(task_id in table.stdout for task_id in (first, second))
    assert [each["task_id"] for each in json.loads(latest.stdout)] == [second]
    assert {(each["task_id"], each["effect"]) for each in json.loads(of_first.stdout)} == {(first, "moved")}
    assert json.loads(forged.stdout) == []


async def test_a_short_list_of_callbacks_says_where_older_ones_would_be(terminal: Terminal) -> None:
    later = [polled(f"{number:05}") for number in range(LOOKED)]
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(lambda connection: evidence.keep(connection, later))
    listed = await terminal.run("callbacks")

    assert listed.exit_code == 0
    assert listed.stderr.startswith("there may be older ones: GET /v1/callbacks?cursor=ev_00000")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["replay"], "give a delivery's id, or --from and --to"),
        (["replay", "dlv_1", "--from", "a", "--to", "b"], "give a delivery's id, or --from and --to"),
        (["replay", "dlv_1"], "there is no such delivery (HTTP 404)"),
        (["deliveries", "--state", "lost"], "HTTP 422"),
        (["callbacks", "--verdict", "fetched"], "HTTP 422"),
        (["keys", "disable", "key_admin"], "HTTP 409"),
    ],
    ids=["nothing", "both", "unknown", "no state", "no verdict", "the operator's own"],
)
async def test_what_goes_wrong_is_one_sentence(terminal: Terminal, arguments: list[str], reason: str) -> None:
    done = await terminal.run(*arguments)

    assert done.exit_code == 1
    assert reason in done.stderr
