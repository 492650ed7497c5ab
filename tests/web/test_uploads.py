"""Large bodies over real sockets: they lie in the folder for uploads, and their number and bytes are limited."""

from collections.abc import AsyncGenerator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.store import Uploads
from tests.disk import open_files
from tests.pictures import in_base64, padded
from tests.sockets import listening, serving, until
from tests.web.documents import problem
from tests.web.test_sockets import JSON, Wire, connect
from tests.world import ADMIN_KEY, World

IMAGE = padded(200_000)
FORM = "content-type: multipart/form-data; boundary=b"
FILE = b'--b\r\ncontent-disposition: form-data; name="input_image"; filename="fox.png"\r\n\r\n' + IMAGE
BODIES = {
    "multipart": (FORM, FILE + b'\r\n--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na fox\r\n--b--\r\n'),
    "JSON": (JSON, b'{"prompt": "a fox", "input_image": "' + in_base64(IMAGE).encode() + b'"}'),
}


@pytest.fixture
async def limited(world: World, tmp_path: Path) -> AsyncGenerator[str]:
    """The address of a service that receives two large bodies at once and refuses the others without a wait."""
    uploads = Uploads(tmp_path / "uploads", world.use.disk, at_once=2, wait_s=0)
    uploads.empty()
    bound, address = listening()
    async with serving(create_app(nullcontext(replace(world.use, uploads=uploads)), with_worker=False), bound):
        yield address


async def begin(address: str, path: str, header: str, body: bytes) -> Wire:
    """Send a request without the last ten bytes of its body."""
    wire = await connect(address)
    await wire.ask("POST", path, header, f"content-length: {len(body)}")
    await wire.send(body[:-10])
    return wire


@pytest.mark.parametrize(
    ("path", "kind"), [("/v1/tasks", "multipart"), ("/v1/tasks", "JSON"), ("/v1/flux-kontext-pro", "JSON")]
)
async def test_a_large_body_beyond_the_limit_is_refused_until_another_one_has_ended(
    limited: str, tmp_path: Path, path: str, kind: str
) -> None:
    header, body = BODIES[kind]
    held = [await begin(limited, path, header, body) for _ in range(2)]

    async def both_have_places() -> bool:
        return len(open_files("self", tmp_path / "uploads")) == 2

    await until(both_have_places)
    async with httpx.AsyncClient(base_url=limited, headers={"x-key": ADMIN_KEY}, timeout=60) as client:
        headers = {"content-type": header.removeprefix("content-type: ")}
        refused = await client.post(path, content=body, headers=headers)
        small = await client.post("/v1/tasks", json={"prompt": "a fox"})
        problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        assert small.status_code == 202

        await held[0].send(body[-10:])
        ended = await held[0].answer()
        await held[1].close()  # a client that goes away returns its place too

        async def none_is_left() -> bool:
            return open_files("self", tmp_path / "uploads") == []

        await until(none_is_left)
        accepted = await client.post(path, content=body, headers=headers)

    assert ended.status == accepted.status_code == (202 if path == "/v1/tasks" else 200)
    await held[0].close()


async def test_texts_in_a_form_are_limited_together(world: World) -> None:
    field = b'--b\r\ncontent-disposition: form-data; name="f%d"\r\n\r\n' + b"x" * 900_000 + b"\r\n"
    body = b"".join(field % number for number in range(3)) + b"--b--\r\n"

    answer = await world.api.post("/v1/tasks", content=body, headers={"content-type": FORM.partition(": ")[2]})

    assert "exceed 2 MB" in problem(answer, 400)["detail"]
