"""Uploads that are held open against a real process: they take disk space, not memory."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import httpx

from tests.cli.test_stopping import child
from tests.disk import open_files
from tests.sockets import until

MB = 1024 * 1024
HELD = 14
FORM = {"content-type": "multipart/form-data; boundary=b", "content-length": str(20 * MB)}
START = b'--b\r\ncontent-disposition: form-data; name="input_image"; filename="fox.png"\r\n\r\n'


def resident_mb(pid: int, name: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


async def test_uploads_that_are_held_open_take_no_memory_and_no_space_in_the_system_folder(tmp_path: Path) -> None:
    uploads = tmp_path / "data" / "uploads"
    async with child(tmp_path, "http://127.0.0.1:9") as (process, api):
        before = resident_mb(process.pid)
        sent, stop = asyncio.Semaphore(0), asyncio.Event()

        async def half() -> AsyncGenerator[bytes]:
            yield START
            for _ in range(10):
                yield bytes(MB)
            sent.release()
            await stop.wait()
            raise httpx.WriteError("the client goes away")

        async def upload() -> None:
            with suppress(httpx.WriteError):
                await api.post("/v1/tasks", content=half(), headers=FORM)

        uploading = [asyncio.create_task(upload()) for _ in range(HELD)]
        for _ in range(HELD):
            await sent.acquire()

        async def arrived() -> bool:
            return sum(open_files(process.pid, uploads)) >= HELD * 10 * MB

        await until(arrived)
        assert (await api.get("/readyz")).status_code == httpx.codes.OK
        assert resident_mb(process.pid, "VmHWM") - before < 60

        stop.set()
        await asyncio.gather(*uploading)

        async def released() -> bool:
            return open_files(process.pid, uploads) == []

        await until(released)
