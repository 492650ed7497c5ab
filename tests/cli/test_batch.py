"""`submit --from`: a task for each row of a file, over a real service and its twin, whose ledger is the judge."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.cli.batch import journal as journals
from app.clock import utc_now
from tests.cli.test_commands import Terminal, terminal
from tests.pictures import picture
from tests.sockets import listening, serving

__all__ = ["terminal"]

ROOT = Path(__file__).parents[2]


async def ledger(terminal: Terminal) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_BFL_BASE_URL"], timeout=60) as twin:
        found: dict[str, Any] = (await twin.get("/twin/ledger")).json()
        return found


def write(terminal: Terminal, name: str, *lines: str) -> str:
    path = terminal.folder / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


async def test_each_row_of_a_csv_file_becomes_an_image_and_a_repetition_changes_nothing(terminal: Terminal) -> None:
    (terminal.folder / "photo.png").write_bytes(picture())
    lines = ["prompt,model,width,image", '"a fox, red",flux-2-pro,256,', "sepia,,,photo.png", "a hen,,,"]
    rows, out = write(terminal, "rows.csv", *lines), terminal.folder / "out"
    command = ("submit", "--from", rows, "--out", str(out), "-p", "output_format=png")
    first = await terminal.run(*command, "--concurrency", "2")
    written = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    (out / "0002.png").unlink()
    (out / "0003.png").write_bytes(b"cut off")
    again = await terminal.run(*command)
    restored = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    known = await ledger(terminal)
    journal = (terminal.folder / "rows.csv.journal").read_text()

    assert first.exit_code == 0, first.output
    assert "3 rows, about 11 credits (USD 0.11) at most" in first.stderr
    assert "3 rows: 3 stored (3 now), 0 failed, 0 not finished\ncost: 11 credits (USD 0.11)" in first.stdout
    assert sorted(written) == ["0001.png", "0002.png", "0003.png"]
    assert set(written.values()) == {task["sha256"] for task in known["tasks"]}
    assert (again.exit_code, restored) == (0, written)
    assert known["accepted"] == 3
    assert "fox" not in journal


async def test_json_lines_take_lists_of_images_and_a_changed_row_makes_only_its_task(terminal: Terminal) -> None:
    (terminal.folder / "a.png").write_bytes(picture())
    row = {"prompt": "merge", "model": "flux-3-image", "images": ["a.png", "a.png"], "metadata": {"order": "7"}}
    other = {"prompt": "a fox", "seed": 5, "priority": 3}
    rows = write(terminal, "rows.jsonl", json.dumps(row), "", json.dumps(other))
    done = await terminal.run("submit", "--from", rows, "--json")
    write(terminal, "rows.jsonl", json.dumps(row), json.dumps({**other, "seed": 6}))
    changed = await terminal.run("submit", "--from", rows, "--json")
    listed = json.loads((await terminal.run("tasks", "--json")).stdout)

    assert (done.exit_code, changed.exit_code) == (0, 0), done.output + changed.output
    assert [one["problem"] for one in json.loads(done.stdout)["rows"]] == [None, None]
    assert [task["params"]["seed"] for task in listed if task["model"] == "flux-kontext-pro"] == [6, 5]
    (merged,) = [task for task in listed if task["model"] == "flux-3-image"]
    assert [image["field"] for image in merged["params"]["images"]] == ["images[0]", "images[1]"]
    assert merged["metadata"] == {"order": "7"}
    assert (await ledger(terminal))["accepted"] == 3


async def test_wrong_rows_are_all_named_and_nothing_is_sent(terminal: Terminal) -> None:
    (terminal.folder / "notes.txt").write_text("no picture")
    lines = [
        "prompt,model,width,image,webhookUrl",
        "a fox,flux-2-pro,wide,,",
        "a fox,flux-9,,,",
        "a fox,,,missing.png,",
        "a fox,,,notes.txt,",
        "a fox,,,,https://x.example",
        "a fox,,,,,,,",
        ",,,,",
        "good,,,,",
    ]
    done = await terminal.run("submit", "--from", write(terminal, "rows.csv", *lines))
    broken = await terminal.run("submit", "--from", write(terminal, "rows.jsonl", '{"prompt": "x"', "[]"))

    assert (done.exit_code, broken.exit_code) == (1, 1)
    for words in (
        "row 1 (line 2): width: must be an integer",
        "row 2 (line 3): model: flux-9 is not in the catalog",
        "missing.png cannot be read: No such file or directory",
        "notes.txt is not an image: give JPEG, PNG or WebP",
        "row 5 (line 6): webhookUrl: ",
        "row 6 (line 7): has 8 cells, and there are 5 columns",
        "6 rows are wrong; nothing was sent: correct ",
    ):
        assert words in done.stderr
    assert "row 1 (line 1): is not a JSON object" in broken.stderr
    assert (await ledger(terminal))["accepted"] == 0
    assert not (terminal.folder / "rows.csv.journal").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no rows"),
        (b"prompt\n", "has no rows"),
        (b"prompt,prompt\nx,y\n", "the first line must name the columns, each once"),
        (b"\xff\xfe", "is not UTF-8"),
        (None, "cannot be read: No such file or directory"),
    ],
)
async def test_an_unusable_file_is_explained(terminal: Terminal, content: bytes | None, reason: str) -> None:
    path = terminal.folder / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    done = await terminal.run("submit", "--from", str(path))

    assert done.exit_code == 1
    assert reason in done.stderr


async def test_failed_rows_make_the_exit_code_1_and_are_tried_again_only_on_request(terminal: Terminal) -> None:
    rows = write(terminal, "rows.csv", "prompt", "a fox", "an unsafe result")
    first = await terminal.run("submit", "--from", rows)
    again = await terminal.run("submit", "--from", rows)
    before = (await ledger(terminal))["accepted"]
    retried = await terminal.run("submit", "--from", rows, "--retry-failed")

    assert [done.exit_code for done in (first, again, retried)] == [1, 1, 1]
    assert "2 rows: 1 stored (1 now), 1 failed, 0 not finished" in first.stdout
    assert "failed: content_moderated" in first.stdout
    assert "2 rows: 1 stored (0 now), 1 failed" in again.stdout
    assert "--retry-failed makes new attempts, which may cost again" in again.stderr
    assert (before, (await ledger(terminal))["accepted"]) == (2, 3)


async def test_another_name_of_the_batch_makes_new_tasks_and_a_check_makes_none(terminal: Terminal) -> None:
    rows = write(terminal, "rows.csv", "prompt", "a fox")
    checked = await terminal.run("submit", "--from", rows, "--check")
    none = (await ledger(terminal))["accepted"]
    done = [await terminal.run("submit", "--from", rows, *name) for name in ((), (), ("--batch", "second"))]

    assert (checked.exit_code, none) == (0, 0)
    assert [one.exit_code for one in done] == [0, 0, 0]
    assert (await ledger(terminal))["accepted"] == 2


async def test_ctrl_c_loses_nothing_and_the_repeated_command_continues(terminal: Terminal) -> None:
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_BFL_BASE_URL"], timeout=60) as twin:
        (await twin.put("/twin/rules", json={"ready_after_s": 1})).raise_for_status()
    rows = write(terminal, "rows.csv", "prompt", *(f"a fox {number}" for number in range(6)))
    out = terminal.folder / "out"
    running = subprocess.Popen(  # noqa: ASYNC220, S603 - our own code
        [sys.executable, "-m", "app", "submit", "--from", rows, "--out", str(out), "--concurrency", "2"],
        cwd=ROOT,
        env={**os.environ, **terminal.env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stderr is not None
    while b"stored 000" not in (line := await asyncio.to_thread(running.stderr.readline)):
        assert line
    running.send_signal(signal.SIGINT)
    _, stderr = await asyncio.to_thread(running.communicate, timeout=60)
    again = await terminal.run("submit", "--from", rows, "--out", str(out), "--concurrency", "2")

    assert running.returncode == 130
    assert b"Interrupted; tasks in progress go on in the service, and nothing is lost.\nRepeat the command" in stderr
    assert b"Traceback" not in stderr
    assert (again.exit_code, len(list(out.iterdir()))) == (0, 6)
    assert (await ledger(terminal))["accepted"] == 6


async def test_a_row_whose_answer_was_lost_a_day_ago_is_sent_again_only_on_request(terminal: Terminal) -> None:
    rows = write(terminal, "rows.csv", "prompt", "a fox")
    await terminal.run("submit", "--from", rows)
    journal = terminal.folder / "rows.csv.journal"
    sent = json.loads(journal.read_text().splitlines()[0])
    sent["sending_at"] = (utc_now() - timedelta(days=2)).isoformat()
    journal.write_text(json.dumps(sent) + "\n" + '{"key": "cut off')
    refused = await terminal.run("submit", "--from", rows)
    resent = await terminal.run("submit", "--from", rows, "--resend-lost")

    assert (refused.exit_code, resent.exit_code) == (1, 0), resent.output
    assert "was sent more than 23 hours ago and its answer was not seen" in refused.stderr
    assert (await ledger(terminal))["accepted"] == 1  # the key is the same, and this service still knows it


async def test_one_command_at_a_time_works_on_a_file(terminal: Terminal) -> None:
    rows = write(terminal, "rows.csv", "prompt", "a fox")
    with journals.opened(Path(f"{rows}.journal")):
        done = await terminal.run("submit", "--from", rows)

    assert done.exit_code == 1
    assert "another command works on this file" in done.stderr


class Gateway:
    """Passes requests on to the service, except the first ones that post a task, which it refuses."""

    def __init__(self, service: httpx.AsyncClient) -> None:
        self._service = service
        self.refusals: list[Response] = []

    async def answer(self, request: Request) -> Response:
        if self.refusals and request.method == "POST":
            return self.refusals.pop(0)
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        url = httpx.URL(path=request.url.path, query=request.url.query.encode())
        answer = await self._service.request(request.method, url, content=await request.body(), headers=headers)
        return Response(answer.content, answer.status_code, dict(answer.headers))


@pytest.fixture
async def gateway(terminal: Terminal) -> AsyncGenerator[tuple[Gateway, str]]:
    bound, url = listening()
    async with httpx.AsyncClient(base_url=terminal.env["FLUXHOOK_PUBLIC_URL"], timeout=60) as service:
        gateway = Gateway(service)
        app = Starlette(routes=[Route("/{path:path}", gateway.answer, methods=["GET", "POST"])])
        async with serving(app, bound):
            yield gateway, url


def refused(status: int, wait: str | None = None) -> Response:
    return JSONResponse({"detail": "not now"}, status, {} if wait is None else {"retry-after": wait})


async def test_refusals_with_retry_after_are_waited_for(terminal: Terminal, gateway: tuple[Gateway, str]) -> None:
    app, url = gateway
    rows = write(terminal, "rows.csv", "prompt", "a fox", "a hen")
    app.refusals = [refused(429, "1"), refused(402, "1"), refused(503, "1"), refused(503)]
    waited = await terminal.run("submit", "--from", rows, "--url", url, "--concurrency", "1")
    app.refusals = [refused(402)]
    unpaid = await terminal.run("submit", "--from", rows, "--url", url, "--batch", "2")
    app.refusals = [refused(403)]
    stopped = await terminal.run("submit", "--from", rows, "--url", url, "--batch", "3", "--concurrency", "1")

    assert waited.exit_code == 0, waited.output
    assert waited.stderr.count("waiting 1 s: not now") == 3
    assert unpaid.exit_code == 1
    assert "1 failed" in unpaid.stdout
    assert "fluxhook: not now (HTTP 403): give a key that may do this" in stopped.stderr
    assert "0 stored (0 now), 0 failed, 2 not finished" in stopped.stdout
