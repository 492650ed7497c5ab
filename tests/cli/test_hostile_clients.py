"""Endless requests to a real process, on its own event loop: they end soon and cost little."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cli.test_held_uploads import resident_mb
from tests.cli.test_stopping import child

MB = 1024 * 1024
START = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n"


def cpu_seconds(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / 100


async def flood(address: str, pieces: Iterable[bytes]) -> bytes:
    """Send all pieces, or as many as the other side takes; return what it answers."""
    at = urlsplit(address)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        pytest.param(START, b"x-header: value\r\n" * (MB // 17), b"431", id="headers"),
        pytest.param(START + b"x: ", b"a" * MB, b"431", id="one header"),
        pytest.param(b"GET /", b"a" * MB, b"414", id="the address"),
    ],
)
async def test_an_endless_head_takes_no_memory_and_no_cpu(
    tmp_path: Path, start: bytes, piece: bytes, status: bytes
) -> None:
    async with child(tmp_path, "http://127.0.0.1:9") as (process, api):
        before, cpu = resident_mb(process.pid), cpu_seconds(process.pid)
        answers = [await flood(str(api.base_url), [start, *[piece] * 100]) for _ in range(3)]

        assert (await api.get("/healthz")).status_code == httpx.codes.OK
        assert resident_mb(process.pid, "VmHWM") - before < 30
        assert cpu_seconds(process.pid) - cpu < 3
    assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 " + status, b""}  # a reset can overtake the answer


async def test_requests_before_garbage_are_answered_in_order(tmp_path: Path) -> None:
    async with child(tmp_path, "http://127.0.0.1:9") as (_, api):
        answer = await flood(str(api.base_url), [(START + b"\r\n") * 2 + b"\0garbage"])

    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"400"]
