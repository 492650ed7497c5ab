"""A host with a certificate of a private authority gives an input image and receives a webhook."""

import asyncio
import json
from collections.abc import AsyncGenerator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.certificates import Authority
from tests.pictures import picture
from tests.services import services_running
from tests.sockets import until
from tests.world import ADMIN_KEY

HOST = "127.0.0.1"


class Intranet:
    """An https server: GET returns an image, and POST records a JSON body."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").lower()
        body = b""
        if head.startswith("post"):
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            self.received.append(json.loads(await reader.readexactly(length)))
        else:
            body = picture()
        fields = f"content-type: image/png\r\ncontent-length: {len(body)}\r\nconnection: close"
        writer.write(f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str, authority: Authority) -> AsyncGenerator[httpx.AsyncClient]:
    env = {"FLUXHOOK_CA_FILE": str(authority.file), "FLUXHOOK_EGRESS_ALLOW": f"{HOST}/32"}
    async with (
        services_running(tmp_path, sqlite_url, env=env) as (address, _),
        httpx.AsyncClient(base_url=address, headers={"x-key": ADMIN_KEY}, timeout=120) as client,
    ):
        yield client


async def test_a_private_authority_is_trusted_for_input_images_and_webhooks(
    api: httpx.AsyncClient, authority: Authority
) -> None:
    intranet = Intranet()
    async with await asyncio.start_server(intranet.serve, HOST, 0, ssl=authority.server(HOST)) as server:
        url = f"https://{HOST}:{server.sockets[0].getsockname()[1]}"
        task = {"prompt": "a fox", "input_image": f"{url}/fox.png", "webhook_url": f"{url}/hook"}
        answer = await api.post("/v1/tasks", json=task)

        async def is_told() -> bool:
            return bool(intranet.received)

        assert answer.status_code == HTTPStatus.ACCEPTED, answer.text
        await until(is_told)
