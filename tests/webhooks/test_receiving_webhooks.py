"""The instructions of `docs/receiving-webhooks.md` work, word for word."""

import asyncio
import base64
import json
import os
import re
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app import clock
from app.rules.backoff import WEBHOOK_WAITS
from app.rules.task import Failure
from app.webhooks.delivery import BROKEN, SEALED, TIMEOUT, UNREACHABLE
from app.webhooks.payload import PROVIDER_CODES
from tests.receivers import SECRET, Receiver, receiver, stored_with_webhook
from tests.world import World

DOCUMENT = (Path(__file__).parents[2] / "docs" / "receiving-webhooks.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
async def heard(world: World) -> Receiver:
    """A receiver with one current webhook about a task, signed with the document's secret."""
    world.clock.at = clock.utc_now()
    heard = receiver(world)
    await stored_with_webhook(world, webhook_secret=SECRET)
    return heard


async def test_the_python_example_accepts_a_delivery_once_and_refuses_a_forged_one(
    heard: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "WEBHOOK_SECRET", SECRET)
    code: dict[str, Any] = {}
    exec(compile(block("python"), "docs/receiving-webhooks.md", "exec"), code)  # noqa: S102 - the document's own
    body, given = heard.bodies[0], dict(heard.requests[0].headers)
    capsys.readouterr()
    once, twice = code["receive"](body, given), code["receive"](body, given)

    assert (once, twice) == (204, 204)
    assert capsys.readouterr().out.count("/results/task_") == 1
    assert code["receive"](body + b" ", given) == 401
    assert code["receive"](body, {**given, "webhook-signature": "nonsense"}) == 401


async def test_the_typescript_example_accepts_only_genuine_deliveries(heard: Receiver, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    typed = re.compile(r": (?:Buffer|Record<string, string>|string|boolean)(?=[,) ])")
    (tmp_path / "example.mjs").write_text(typed.sub("", block("typescript")))
    (tmp_path / "run.mjs").write_text(
        'import { isOurs } from "./example.mjs";\n'
        "const cases = JSON.parse(process.argv[2]);\n"
        'console.log(JSON.stringify(cases.map((c) => isOurs(Buffer.from(c[0], "base64"), c[1], c[2]))));\n'
    )
    given, encoded = dict(heard.requests[0].headers), base64.b64encode(heard.bodies[0]).decode()
    cases = [
        (encoded, given, SECRET),
        (base64.b64encode(heard.bodies[0] + b" ").decode(), given, SECRET),
        (encoded, {**given, "webhook-id": "dlv_2"}, SECRET),
        (encoded, {**given, "webhook-timestamp": "1"}, SECRET),
        (encoded, {**given, "webhook-signature": "v1,AAAA nonsense"}, SECRET),
        (encoded, given, "whsec_" + "A" * 32),
        (encoded, {}, SECRET),
    ]
    child = await asyncio.create_subprocess_exec(
        node, str(tmp_path / "run.mjs"), json.dumps(cases), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()

    assert json.loads(out) == [True, False, False, False, False, False, False]


async def test_every_curl_command_of_the_document_succeeds(world: World) -> None:
    joined = "\n".join(re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)).replace("\\\n", " ")
    calls = re.findall(r'^curl -s "?\$FLUXHOOK([^\s"]+)"?(.*)$', joined, re.MULTILINE)
    answers = []
    for path, rest in calls:
        data = re.search(r"-d '(.*?)'", rest)
        asked = world.api.get(path) if data is None else world.api.post(path, json=json.loads(data[1]))
        answers.append((await asked).status_code)

    assert answers == [202, 200, 200, 202, 202]


def test_the_documented_waits_are_those_of_the_schedule() -> None:
    found = re.search(r"<!-- waits -->(.*?)<!-- end -->", DOCUMENT)
    assert found is not None
    units = {"s": timedelta(seconds=1), "min": timedelta(minutes=1), "h": timedelta(hours=1)}
    documented = [int(number) * units[unit] for number, unit in re.findall(r"(\d+) (s|min|h)\b", found[1])]

    assert documented == list(WEBHOOK_WAITS)


def test_every_error_of_an_attempt_is_explained() -> None:
    assert [error for error in (UNREACHABLE, TIMEOUT, BROKEN, SEALED) if f"| `{error}` |" not in DOCUMENT] == []


def test_every_code_of_the_provider_form_is_named() -> None:
    assert set(PROVIDER_CODES) == set(Failure)
    assert [code for code in PROVIDER_CODES.values() if f"`{code}`" not in DOCUMENT] == []
