"""The provider's own clients, unmodified and pointed at us: they do their whole job."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.pictures import in_base64, picture
from tests.services import services_running
from tests.world import ADMIN_KEY

# They are as they are: what they do that Python or pydantic frowns upon is not for our tests to judge.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
async def address(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[str]:
    """Where Fluxhook listens."""
    async with services_running(tmp_path, sqlite_url, ready_after_s=0.1) as (ours, theirs):
        async with httpx.AsyncClient(base_url=theirs, timeout=60) as twin:
            (await twin.put("/twin/rules", json={"megapixels": 0.02})).raise_for_status()
        yield ours


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture())
    return path


@pytest.fixture
def black_forest_labs(monkeypatch: pytest.MonkeyPatch) -> Generator[ModuleType]:
    """The client of this name, which wants a key before it can be imported."""
    monkeypatch.setenv("BFL_API_KEY", "of nobody")
    import black_forest_labs  # noqa: PLC0415

    yield black_forest_labs
    black_forest_labs.default_client._client.close()


def fetched(address: str, sample: str) -> bytes:
    """The image behind a result's link, as somebody without a key gets it."""
    assert sample.startswith(f"{address}/results/")
    assert urlsplit(sample).path.endswith(".png")
    answer = httpx.get(sample, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    return answer.content


async def test_the_official_client_submits_polls_and_downloads(address: str, photo: Path) -> None:
    await asyncio.to_thread(official, address, photo)


def official(address: str, photo: Path) -> None:
    from blackforest import BFLClient, BFLError  # noqa: PLC0415
    from blackforest.types.general.client_config import ClientConfig  # noqa: PLC0415

    at_once = ClientConfig(sync=True, polling_interval=0.1)
    client = BFLClient(api_key=ADMIN_KEY, base_url=address)
    with closing(client.session):
        made = client.generate("flux-kontext-pro", {"prompt": "a red fox", "aspect_ratio": "16:9"}, at_once)
        assert made.result["prompt"] == "a red fox"
        assert fetched(address, made.result["sample"]).startswith(b"\x89PNG")

        edited = client.generate("flux-kontext-pro", {"prompt": "greyer", "input_image": str(photo)}, at_once)
        assert fetched(address, edited.result["sample"]) != fetched(address, made.result["sample"])

        submitted = client.generate("flux-kontext-pro", {"prompt": "forbidden"})
        assert submitted.polling_url == f"{address}/v1/get_result?id={submitted.id}"
        # This client does not know that a moderated task is over: it asks until it is tired.
        with pytest.raises(BFLError, match="maximum retries"):
            client.get_polling_result(submitted.id, ClientConfig(polling_interval=0.1, max_retries=8))
        moderated = client.get_task_status(submitted.id)
        assert moderated.status == "Request Moderated"
        assert moderated.error in {"Request Moderated", "Derivative Works Filter"}  # the latter once it was polled for

        with pytest.raises(BFLError, match="input_image: not valid base64"):
            client.generate("flux-kontext-pro", {"prompt": "x", "input_image": "no picture"})
    stranger = BFLClient(api_key="wrong", base_url=address)
    with closing(stranger.session), pytest.raises(BFLError, match="Not authenticated"):
        stranger.generate("flux-kontext-pro", {"prompt": "x"})


@pytest.mark.parametrize("mount", ["", "/flux"])
async def test_the_client_with_strict_statuses_submits_polls_and_downloads(
    address: str, black_forest_labs: ModuleType, mount: str
) -> None:
    await asyncio.to_thread(strict, address, black_forest_labs, mount)


def strict(address: str, black_forest_labs: ModuleType, mount: str) -> None:
    status = black_forest_labs.Status
    client = black_forest_labs.Client(ADMIN_KEY, base_url=f"{address}{mount}")
    # No such host exists.
    hook = {"webhook_url": "https://hook.invalid/", "webhook_secret": "theirs"}
    with closing(client._client):
        made, edited, moderated = tasks = [
            client.generate("flux-kontext-pro", prompt="a red fox", **hook),
            client.generate("flux-kontext-max", prompt="greyer", input_image=in_base64(picture())),
            client.generate("flux-kontext-pro", prompt="unsafe result"),
        ]
        assert {task.status for task in tasks} == {status.PENDING}
        for task in tasks:
            ended = until_done(client, task)
            expected = status.CONTENT_MODERATED if task is moderated else status.READY
            assert ended.status is expected
        for task in (made, edited):
            assert fetched(address, client.get_result(task).result.sample).startswith(b"\x89PNG")

        for wrong in ({"prompt": "x", "safety_tolerance": 9}, {"prompt": "x", "webhook_url": "nowhere"}):
            with pytest.raises(httpx.HTTPStatusError, match="422") as refused:
                client.generate("flux-kontext-pro", **wrong)
            (found,) = refused.value.response.json()["detail"]
            assert found.keys() == {"loc", "msg", "type"}
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            client.get_result("7c9e6679-7425-40de-944b-e07fc1f90ae7")


def until_done(client: Any, task: Any) -> Any:
    """As its README has it, with less patience."""
    ends_at = time.monotonic() + 60
    while not (task := client.get_result(task)).is_done:
        assert time.monotonic() < ends_at
        time.sleep(0.05)
    return task
