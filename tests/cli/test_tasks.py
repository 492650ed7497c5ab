"""`tasks`, `show`, `cancel`, `resubmit`, `delete` and `usage`, run against a real service."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import httpx

from app.db.engine.database import open_database
from app.db.queries import retention
from tests.cli.test_commands import Terminal, terminal
from tests.rows import START

__all__ = ["terminal"]


async def hold_tasks(terminal: Terminal) -> None:
    """Let the provider finish no task for an hour, and accept one at a time."""
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_BFL_BASE_URL"], timeout=60) as twin:
        rules = {"ready_after_s": 3600, "slots": {"flux-kontext-pro": 1}, "account_slots": 1}
        (await twin.put("/twin/rules", json=rules)).raise_for_status()


async def test_show_tells_what_happened_to_a_stored_task_and_that_nothing_follows(terminal: Terminal) -> None:
    task_id = (await terminal.run("submit", "a \x1b[31mfox", "--seed", "7", "--wait")).stdout.strip()
    shown = await terminal.run("show", task_id)
    as_json = json.loads((await terminal.run("show", task_id, "--json")).stdout)
    happened = shown.stdout.partition("What happened")[2]

    assert shown.stdout.startswith(f"{task_id}  stored\n")
    assert "a \\x1b[31mfox" in shown.stdout
    assert "cost               4 credits (USD 0.04)" in shown.stdout
    for line in (
        "attempt 1 at bfl: accepted as ",
        "callback said ready: its shared secret is right, it moved the task",
        "downloaded and stored after ",
        "the image is stored",
    ):
        assert line in happened
    assert shown.stdout.endswith("What happens next\n  nothing: the task is final\n")
    assert as_json["task"]["id"] == as_json["timeline"]["task_id"] == task_id


async def test_show_says_that_retention_removed_an_image(terminal: Terminal) -> None:
    task_id = (await terminal.run("submit", "a fox", "--wait")).stdout.strip()
    async with open_database(f"sqlite:///{terminal.folder / 'data' / 'fluxhook.db'}") as database:
        await database.write(retention.mark_images, [task_id], START)
        await database.write(retention.mark_inputs, [task_id], START)
    shown = (await terminal.run("show", task_id)).stdout

    assert "because the retention of the image has ended" in shown
    assert "because their retention has ended" in shown


async def test_show_tells_what_happens_next_to_a_failed_and_to_an_open_task(terminal: Terminal) -> None:
    failed = (await terminal.run("submit", "an unsafe result", "--wait")).stdout.strip()
    await hold_tasks(terminal)
    waiting = (await terminal.run("submit", "a fox")).stdout.strip()
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_PUBLIC_URL"], timeout=60) as api:
        api.headers["x-key"] = terminal.env["FLUXHOOK_ADMIN_KEY"]
        while (await api.get(f"/v1/tasks/{waiting}")).json()["status"] != "submitted":
            pass
    of_failed, of_waiting = [(await terminal.run("show", task)).stdout for task in (failed, waiting)]

    assert f"`fluxhook resubmit {failed}` makes a new attempt (the last one: it may have been charged)" in of_failed
    assert "the provider is polled, unless a callback comes first" in of_waiting.partition("What happens next")[2]


async def test_a_task_is_cancelled_resubmitted_and_erased(terminal: Terminal) -> None:
    failed = (await terminal.run("submit", "an unsafe result", "--wait")).stdout.strip()
    unasked = await terminal.run("resubmit", failed)
    again = await terminal.run("resubmit", failed, "--yes")
    await terminal.run("watch", failed)
    final = await terminal.run("cancel", failed)
    refused = await terminal.run("delete", failed)
    erased = await terminal.run("delete", failed, "--yes")
    gone = await terminal.run("show", failed)

    assert unasked.exit_code == 1
    assert (
        "failed as content_moderated and may have been charged. A new attempt costs about 4 credits" in unasked.stderr
    )
    assert "Add --yes" in unasked.stderr
    assert (again.exit_code, again.stdout.startswith(f"{failed} is queued; `fluxhook watch ")) == (0, True)
    assert "the task is failed and can no longer be cancelled (HTTP 409)" in final.stderr
    assert (refused.exit_code, erased.stdout) == (1, f"{failed} is erased\n")
    assert "there is no such task (HTTP 404)" in gone.stderr


async def test_an_erasure_prints_its_receipt_as_json(terminal: Terminal) -> None:
    task_id = (await terminal.run("submit", "a fox", "--wait")).stdout.strip()
    receipt = json.loads((await terminal.run("delete", task_id, "--yes", "--json")).stdout)

    assert task_id in [item["task_id"] for item in receipt["removed"]]


async def test_cancel_says_whether_the_task_ended_or_goes_on_unwanted(terminal: Terminal) -> None:
    await hold_tasks(terminal)
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_PUBLIC_URL"], timeout=60) as api:
        api.headers["x-key"] = terminal.env["FLUXHOOK_ADMIN_KEY"]
        at_provider = (await api.post("/v1/tasks", json={"prompt": "a fox"})).json()["id"]
        while (await api.get(f"/v1/tasks/{at_provider}")).json()["status"] != "submitted":
            pass
    unwanted = await terminal.run("cancel", at_provider)

    assert "is at the provider and cannot be cancelled" in unwanted.stdout


async def test_tasks_are_filtered_by_time_and_continued_by_a_cursor(terminal: Terminal) -> None:
    first, second = [(await terminal.run("submit", "a fox", "--wait")).stdout.strip() for _ in range(2)]
    page = await terminal.run("tasks", "--limit", "1", "--status", "stored", "--status", "failed")
    cursor = page.stderr.strip().rpartition(" ")[2]
    rest = await terminal.run("tasks", "--cursor", cursor, "--json")
    none = await terminal.run("tasks", "--before", "1h", "--json")
    both = await terminal.run("tasks", "--after", "1h", "--json")
    wrong = await terminal.run("tasks", "--after", "yesterday")

    assert second in page.stdout
    assert first not in page.stdout
    assert page.stderr.startswith("there are older tasks: --cursor ")
    assert [task["id"] for task in json.loads(rest.stdout)] == [first]
    assert json.loads(none.stdout) == []
    assert len(json.loads(both.stdout)) == 2
    assert wrong.exit_code == 2
    assert "give a time such as" in " ".join(wrong.stderr.split())


async def test_usage_shows_counts_and_cost_by_key_and_model_with_a_total(terminal: Terminal) -> None:
    await terminal.run("submit", "a fox", "--wait")
    await terminal.run("submit", "a fox", "--model", "flux-2-pro", "--wait")
    table = await terminal.run("usage", "--after", "1h")
    as_json = json.loads((await terminal.run("usage", "--json")).stdout)
    lines = [line.split("\t") for line in table.stdout.splitlines()]

    assert lines[0] == ["key", "model", "posted", "stored", "failed", "cancelled", "open", "credits", "cost_unknown"]
    assert sorted(line[1] for line in lines[1:3]) == ["flux-2-pro", "flux-kontext-pro"]
    assert lines[3] == ["total", "", "2", "2", "0", "0", "0", "7", "0"]
    assert len(as_json["usage"]) == 2


async def test_on_a_terminal_a_command_asks_before_it_spends(terminal: Terminal) -> None:
    failed = (await terminal.run("submit", "an unsafe result", "--wait")).stdout.strip()
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(  # noqa: ASYNC220, S603 - our own code
        [sys.executable, "-m", "app", "resubmit", failed],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **terminal.env},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.write(ours, b"n\n")
    stdout, stderr = await asyncio.to_thread(asking.communicate, timeout=60)
    os.close(ours)
    os.close(theirs)

    assert (asking.returncode, stdout.strip()) == (1, b"")
    assert b"Make it? [y/N]:" in stderr
    assert stderr.endswith(b"fluxhook: nothing was done\n")
