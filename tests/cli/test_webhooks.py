"""`deliveries`, `replay` and `keys` from a terminal, against a real service."""

import json

import pytest

from tests.cli.test_commands import Terminal, terminal

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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["replay"], "give a delivery's id, or --from and --to"),
        (["replay", "dlv_1", "--from", "a", "--to", "b"], "give a delivery's id, or --from and --to"),
        (["replay", "dlv_1"], "there is no such delivery (HTTP 404)"),
        (["deliveries", "--state", "lost"], "HTTP 422"),
        (["keys", "disable", "key_admin"], "HTTP 409"),
    ],
    ids=["nothing", "both", "unknown", "no state", "the operator's own"],
)
async def test_what_goes_wrong_is_one_sentence(terminal: Terminal, arguments: list[str], reason: str) -> None:
    done = await terminal.run(*arguments)

    assert done.exit_code == 1
    assert reason in done.stderr
