"""`fluxhook audit`, run against a real service."""

import json

from app.db.engine.database import open_database
from app.db.tables.audit import audit
from tests.cli.test_commands import Terminal, terminal

__all__ = ["terminal"]


async def test_the_audit_is_listed_and_verified(terminal: Terminal) -> None:
    key_id = (await terminal.run("keys", "add", "shop")).stdout.split()[0]
    first = await terminal.run("audit", "verify")
    head = first.stdout.split()[-1]
    await terminal.run("keys", "disable", key_id)

    listed = await terminal.run("audit", "list")
    rows = json.loads((await terminal.run("audit", "list", "--json", "--subject", key_id)).stdout)
    again = await terminal.run("audit", "verify", "--head", head)
    wrong = await terminal.run("audit", "verify", "--head", "0f" * 32)

    assert "key.disabled" in listed.stdout
    assert [row["action"] for row in rows] == ["key.disabled", "key.created"]
    assert (again.exit_code, again.stderr) == (0, "")
    assert wrong.exit_code == 1
    assert "not in the chain" in wrong.stderr


async def test_a_record_that_was_removed_is_found(terminal: Terminal) -> None:
    for name in ("one", "two", "three"):
        await terminal.run("keys", "add", name)
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(lambda connection: connection.exec_driver_sql("DROP TRIGGER audit_no_delete"))
        await database.write(lambda connection: connection.execute(audit.delete().where(audit.c.sequence == 3)))

    found = await terminal.run("audit", "verify")

    assert found.exit_code == 1
    assert "after 2 comes 4" in found.stderr
