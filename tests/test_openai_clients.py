"""OpenAI's own packages, unmodified and pointed at us: they make and edit images."""

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from tests.conftest import skip_or_fail
from tests.pictures import picture
from tests.services import services_running
from tests.world import ADMIN_KEY

# They are as they are: what they do that Python or pydantic frowns upon is not for our tests to judge.
pytestmark = pytest.mark.filterwarnings("ignore")
DOCUMENT = Path(__file__).parents[1] / "docs" / "openai.md"
PNG = b"\x89PNG"
NODE = """
import OpenAI, { toFile } from "openai";
import fs from "node:fs";

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY, maxRetries: 0 });
const kind = (item) => Buffer.from(item.b64_json, "base64").subarray(1, 4).toString();
const made = await client.images.generate({ model: "flux-2-pro", prompt: "a red fox", n: 2, size: "1024x1024" });
const photo = await toFile(fs.readFileSync("photo.png"), "photo.png", { type: "image/png" });
const edited = await client.images.edit({ model: "flux-2-pro", prompt: "greyer", image: [photo, photo] });
const events = [];
for await (const event of await client.images.generate({ prompt: "a red fox", stream: true })) events.push(event.type);
const models = [];
for await (const model of client.models.list()) models.push(model.id);
let code;
await client.images.generate({ prompt: "forbidden" }).catch((error) => { code = error.code; });
console.log(JSON.stringify({ made: made.data.map(kind), edited: edited.data.map(kind), events, models, code }));
"""


@pytest.fixture
async def twin(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[tuple[str, httpx.AsyncClient]]:
    """The base URL for OpenAI's clients, and the provider."""
    async with (
        services_running(tmp_path, sqlite_url, ready_after_s=0.1) as (ours, theirs),
        httpx.AsyncClient(base_url=theirs, timeout=60) as provider,
    ):
        (await provider.put("/twin/rules", json={"megapixels": 0.02})).raise_for_status()
        yield f"{ours}/openai/v1", provider


@pytest.fixture
def address(twin: tuple[str, httpx.AsyncClient]) -> str:
    return twin[0]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture())
    return path


async def test_the_python_package_makes_and_edits_images(address: str, photo: Path) -> None:
    await asyncio.to_thread(synchronous, address, photo)


def synchronous(address: str, photo: Path) -> None:
    import openai  # noqa: PLC0415

    with openai.OpenAI(base_url=address, api_key=ADMIN_KEY, max_retries=0) as client:
        made = client.images.generate(model="flux-2-pro", prompt="a red fox", n=2, size="1024x1024", quality="auto")
        assert [bytes_of(image.b64_json)[:4] for image in made.data or ()] == [PNG] * 2
        linked = client.images.generate(prompt="a red fox", response_format="url", extra_body={"seed": 7})
        assert httpx.get((linked.data or [])[0].url or "", timeout=60).content.startswith(PNG)
        with photo.open("rb") as one, photo.open("rb") as other:
            edited = client.images.edit(model="flux-2-pro", image=[one, other], prompt="greyer", size="auto")
        assert bytes_of((edited.data or [])[0].b64_json).startswith(PNG)
        events = [event.type for event in client.images.generate(prompt="a red fox", stream=True, partial_images=2)]
        assert events == ["image_generation.completed"]
        assert "flux-2-pro" in {model.id for model in client.models.list()}
        assert client.models.retrieve("flux-tools/erase-v1").object == "model"

        with pytest.raises(openai.BadRequestError) as refused:
            client.images.generate(prompt="forbidden")
        assert refused.value.code == "content_policy_violation"
        with pytest.raises(openai.NotFoundError) as unknown:
            client.images.generate(model="dall-e-3", prompt="a red fox")
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with (
        openai.OpenAI(base_url=address, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.images.generate(prompt="a red fox")


async def test_the_python_package_repeats_no_request_whose_task_failed(twin: tuple[str, httpx.AsyncClient]) -> None:
    import openai  # noqa: PLC0415

    address, provider = twin
    async with openai.AsyncOpenAI(base_url=address, api_key=ADMIN_KEY, max_retries=5) as client:
        with pytest.raises(openai.InternalServerError):
            await client.images.generate(prompt="fail")
    assert len((await provider.get("/twin/ledger")).json()["tasks"]) == 1


async def test_the_asynchronous_python_client_does_too(address: str, photo: Path) -> None:
    import openai  # noqa: PLC0415

    async with openai.AsyncOpenAI(base_url=address, api_key=ADMIN_KEY, max_retries=0) as client:
        made, edited = await asyncio.gather(
            client.images.generate(prompt="a red fox"), client.images.edit(image=photo, prompt="greyer")
        )
        for response in (made, edited):
            assert bytes_of((response.data or [])[0].b64_json).startswith(PNG)
        stream = await client.images.edit(image=photo, prompt="greyer", stream=True)
        assert [event.type async for event in stream] == ["image_edit.completed"]


async def test_the_node_package_makes_and_edits_images(address: str, photo: Path) -> None:
    folder = photo.parent
    await asyncio.to_thread(install_node_package, folder)
    (folder / "client.mjs").write_text(NODE)
    process = await asyncio.create_subprocess_exec(
        shutil.which("node") or "node",
        "client.mjs",
        cwd=folder,
        env={"BASE_URL": address, "API_KEY": ADMIN_KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out)
    assert found.pop("models")
    assert found == {
        "made": ["PNG", "PNG"],
        "edited": ["PNG"],
        "events": ["image_generation.completed"],
        "code": "content_policy_violation",
    }


def install_node_package(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        skip_or_fail("node", "Node and npm are not installed")
    (folder / "package.json").write_text('{"private": true}')
    flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--no-save")
    command = [npm or "npm", "install", *flags, "openai"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, check=False)  # noqa: S603
    if installed.returncode != 0:
        skip_or_fail("node", "the npm registry cannot be reached")


def bytes_of(text: str | None) -> bytes:
    return base64.b64decode(text or "", validate=True)


async def test_the_requests_of_open_webui_make_and_edit_images(address: str) -> None:
    members = {"model": "flux-2-pro", "prompt": "a red fox", "size": "512x512", "response_format": "b64_json"}
    key = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(headers=key, timeout=60) as client:
        made = await client.post(f"{address}/images/generations?api-version=1", json={**members, "n": 1})
        files = [("image[]", ("1.png", picture(), "image/png")), ("image[]", ("2.png", picture(), "image/png"))]
        edited = await client.post(f"{address}/images/edits", data={**members, "n": "1"}, files=files)
    for response in (made, edited):
        assert bytes_of(response.raise_for_status().json()["data"][0]["b64_json"]).startswith(PNG)


async def test_the_curl_example_of_the_document_makes_an_image(address: str) -> None:
    if shutil.which("curl") is None:
        skip_or_fail("curl", "curl is not installed")
    found = re.search(r"```sh\n(curl .*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    command = found[1].replace("https://fluxhook.example.com/openai/v1", address)
    process = await asyncio.create_subprocess_shell(
        command, env={"GATEWAY_KEY": ADMIN_KEY, "PATH": os.environ["PATH"]}, stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert bytes_of(json.loads(out)["data"][0]["b64_json"]).startswith(PNG)
