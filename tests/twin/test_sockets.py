"""The twin under uvicorn on loopback, for behaviour that only real sockets show."""

import asyncio
import socket
from collections.abc import AsyncGenerator

import httpx
import pytest
import uvicorn

from app.twin import build


@pytest.fixture(params=["h11", "httptools"])
async def server(request: pytest.FixtureRequest) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a twin whose tasks are ready at once."""
    config = uvicorn.Config(build(ready_after_s=0, seed=1), http=request.param, log_config=None, lifespan="on")
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        serving = asyncio.create_task(running.serve([listening]))
        try:
            headers = {"x-key": "good"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
                await client.put("/twin/rules", json={"megapixels": 0.02})
                yield client
        finally:
            running.should_exit = True
            await serving


async def test_a_lost_answer_sends_no_byte(server: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    await server.put("/twin/faults", json={"lose_answer_after": 1})
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await server.post("/v1/flux-kontext-pro", json={"prompt": "x"})
    ledger = (await server.get("/twin/ledger")).json()

    assert (ledger["accepted"], ledger["tasks"][0]["answer_lost"]) == (1, True)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_truncated_image_ends_before_its_content_length(server: httpx.AsyncClient) -> None:
    await server.put("/twin/faults", json={"truncated_body": 1})
    task = (await server.post("/v1/flux-kontext-pro", json={"prompt": "x"})).json()
    sample = (await server.get(task["polling_url"])).json()["result"]["sample"]
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        await server.get(sample)

    assert (await server.get(sample)).status_code == 200


async def test_the_running_twin_sends_callbacks_without_a_tick(server: httpx.AsyncClient) -> None:
    called = asyncio.Event()

    async def receive(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        called.set()

    async with await asyncio.start_server(receive, "127.0.0.1", 0) as receiver:
        port = receiver.sockets[0].getsockname()[1]
        order = {"prompt": "x", "webhook_url": f"http://127.0.0.1:{port}/hook"}
        await server.post("/v1/flux-kontext-pro", json=order)
        async with asyncio.timeout(30):
            await called.wait()
