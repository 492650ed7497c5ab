"""The requests with curl in the documents succeed as they are printed, against a running service and the twin.

Only the address of the service, the keys and the files of the reader are filled in. The requests "before" a move, which
go to the provider, are left out.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import skip_or_fail
from tests.pictures import picture
from tests.services import services_running
from tests.world import ADMIN_KEY

ROOT = Path(__file__).parents[1]
# The container check runs those of docs/deploying.md.
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.stem != "deploying")]
_BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?```sh\n(.*?)```", re.DOTALL)
_ELSEWHERE = re.compile(r"https://(api\.bfl\.ai|gptproto\.com)|\.\.\.$|\.\.\. ")
# A stream of all events has no end, so it is cut; every other request must succeed in time.
_CURL = """#!/bin/sh
case "$*" in
  *"/v1/events -H"*event-stream*) timeout 3 {curl} "$@"; exit 0 ;;
  *) exec {curl} --fail-with-body --max-time 90 "$@" ;;
esac
"""


def requests(page: Path) -> list[str]:
    """Return the blocks of a page that call curl, without the lines that go elsewhere."""
    return [
        "\n".join(block)
        for not_run, text in _BLOCK.findall(page.read_text())
        if not not_run and "curl " in text and (block := list(_lines(text)))
    ]


def _lines(text: str) -> Iterator[str]:
    """Yield the commands of a block, each in one line."""
    for line in text.replace("\\\n", " ").splitlines():
        if not _ELSEWHERE.search(line.partition("#")[0].strip()):
            ours = line.replace("https://fluxhook.example.com", "$FLUXHOOK")
            yield ours.replace("http://127.0.0.1:8080", "$FLUXHOOK")


@pytest.mark.parametrize("page", [page for page in PAGES if requests(page)], ids=lambda page: page.name)
async def test_the_requests_of_a_page_succeed_as_printed(page: Path, tmp_path: Path, sqlite_url: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        skip_or_fail("curl", "curl is not installed")
    tools, home = tmp_path / "tools", tmp_path / "home"
    (home / "data").mkdir(parents=True)
    tools.mkdir()
    (tools / "curl").write_text(_CURL.format(curl=curl))
    (tools / "curl").chmod(0o755)
    (home / "data" / "admin_key").write_text(ADMIN_KEY)
    (home / "photo.jpg").write_bytes(picture())
    async with (
        services_running(tmp_path, sqlite_url, ready_after_s=0.1) as (ours, theirs),
        httpx.AsyncClient(base_url=ours, headers={"x-key": ADMIN_KEY}, timeout=60) as api,
        httpx.AsyncClient(base_url=theirs, timeout=60) as provider,
    ):
        (await provider.put("/twin/rules", json={"megapixels": 0.02})).raise_for_status()
        task = (await api.post("/v1/tasks", json={"prompt": "a fox", "user": "customer-17"})).raise_for_status().json()
        keys = dict.fromkeys(("KEY", "GATEWAY_KEY", "ADMIN_KEY"), ADMIN_KEY)
        known = {"FLUXHOOK": ours, "URL": ours, "ID": task["id"], "CURSOR": "start", **keys}
        for block in requests(page):
            shell = await asyncio.create_subprocess_exec(
                *("bash", "-euc", block),
                cwd=home,
                env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", **known},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await shell.communicate()
            assert shell.returncode == 0, f"{block}\n{output.decode(errors='replace')}"


def test_requests_are_found_in_the_documents() -> None:
    assert {page.name for page in PAGES if requests(page)} >= {"README.md", "api.md", "events.md", "openai.md"}
