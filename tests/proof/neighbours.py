"""A noisy application beside a quiet one, against real processes: `make neighbours`.

It prints the 95th percentiles of the quiet one's posts, reads and webhooks, alone and beside each kind of noise:

- `queue`: a full queue, further posts, and 200 endpoints that do not answer
- `uploads`: large images, several at once, all day
- `keys`: wrong API keys from the same address, several at once

`--only NAME`: one kind. `--unlimited`: without the limit of deliveries, for comparison.
"""

import argparse
import asyncio
import base64
import os
import random  # noqa: TID251 - chooses ports
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from PIL import Image

from tests.proof.processes import ADMIN_KEY, answers, end, free_port, playing_twin, start

_QUEUE = 300
_SLOW_ENDPOINTS, _HOSTS = 200, 50
_POSTS_PER_S = 20  # of the noisy application, all refused, and as many test deliveries
_SAMPLES = 60
_UPLOADS, _GUESSERS = 4, 8  # connections
_SIDE = 1400  # pixels of a large image, which has 6 MB
_PAUSE_S = 0.15  # between two samples
_SETTLE_S = 8.0  # until the noise is at its full strength
Times = dict[str, list[float]]
KINDS = ("queue", "uploads", "keys")


class Receivers:
    """Receives webhooks: at `/quick` it answers at once and notes when, elsewhere never."""

    def __init__(self) -> None:
        self.heard: dict[str, asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readline()).split(b" ")[1].decode()
            if path.startswith("/quick/"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
                self.heard[path].set()
                writer.close()
            else:
                await asyncio.sleep(60)
        except (OSError, IndexError, asyncio.CancelledError):  # the last at the end of the program
            pass


@asynccontextmanager
async def service(folder: Path, *, unlimited: bool) -> AsyncGenerator[httpx.AsyncClient]:
    """Run the service and the twin, whose images take so long that a queue stays full."""
    ports = random.Random(time.time_ns())  # noqa: S311 - ports
    port, twin_port = free_port(ports), free_port(ports)
    env = {
        "FLUXHOOK_DATA_DIR": str(folder / "data"),
        "FLUXHOOK_ADMIN_KEY": ADMIN_KEY,
        "FLUXHOOK_BFL_API_KEY": "a-provider-key",
        "FLUXHOOK_BFL_BASE_URL": f"http://127.0.0.1:{twin_port}",
        "FLUXHOOK_PORT": str(port),
        "FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8",
        "FLUXHOOK_LIMIT_QUEUED": str(_QUEUE),
        "FLUXHOOK_LIMIT_TESTS_PER_MINUTE": "100000",
    }
    if unlimited:
        env["FLUXHOOK_LIMIT_DELIVERIES"] = "100000"
    async with playing_twin(twin_port, 1, 600, folder / "twin.log"):
        process = await start(["serve"], env, folder / "service.log")
        try:
            address = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
                assert await answers(client, process)
                yield client
        finally:
            await end(process)


async def key(client: httpx.AsyncClient, name: str) -> dict[str, str]:
    answer = await client.post("/v1/keys", json={"name": name}, headers={"x-key": ADMIN_KEY})
    return {"x-key": answer.json()["key"]}


async def measure(client: httpx.AsyncClient, headers: dict[str, str], receivers: Receivers, address: str) -> Times:
    """Post and read tasks and ask for test deliveries; return the seconds of each, and until each webhook arrived."""
    times: Times = {"post": [], "read": [], "webhook": []}
    for number in range(_SAMPLES):
        path = f"/quick/{time.time_ns()}"
        receivers.heard[path] = asyncio.Event()
        began = time.monotonic()
        answer = await client.post("/v1/tasks", json={"prompt": "a fox"}, headers=headers)
        times["post"].append(time.monotonic() - began)
        assert answer.status_code == 202, (number, answer.text)
        began = time.monotonic()
        read = await client.get(answer.headers["location"], headers=headers)
        times["read"].append(time.monotonic() - began)
        assert read.status_code == 200, read.text
        began = time.monotonic()
        answer = await client.post("/v1/endpoints/test", json={"webhook_url": f"{address}{path}"}, headers=headers)
        assert answer.status_code == 202, answer.text
        async with asyncio.timeout(60):
            await receivers.heard[path].wait()
        times["webhook"].append(time.monotonic() - began)
        await asyncio.sleep(_PAUSE_S)
    return times


async def fill(client: httpx.AsyncClient, headers: dict[str, str], urls: list[str]) -> None:
    """Fill the queue of the noisy application, and give it endpoints that do not answer."""
    for url in urls:
        await client.post("/v1/endpoints/test", json={"webhook_url": url}, headers=headers)
    status = 202
    while status == 202:
        status = (await client.post("/v1/tasks", json={"prompt": "a fox"}, headers=headers)).status_code
    assert status == 429, status


async def post_beyond_the_queue(client: httpx.AsyncClient, headers: dict[str, str], urls: list[str]) -> None:
    for url in cycle(urls):
        await client.post("/v1/endpoints/test", json={"webhook_url": url}, headers=headers)
        await client.post("/v1/tasks", json={"prompt": "a fox"}, headers=headers)
        await asyncio.sleep(1 / _POSTS_PER_S)


async def upload(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """Post tasks with a large image whose pixels cannot be compressed."""
    image = Image.frombytes("RGB", (_SIDE, _SIDE), random.Random(1).randbytes(3 * _SIDE * _SIDE))  # noqa: S311 - pixels
    file = BytesIO()
    image.save(file, "PNG", compress_level=0)
    body = {"prompt": "a fox", "input_image": base64.b64encode(file.getvalue()).decode()}

    async def again() -> None:
        while True:
            await client.post("/v1/tasks", json=body, headers=headers)

    await asyncio.gather(*(again() for _ in range(_UPLOADS)))


async def guess(client: httpx.AsyncClient) -> None:
    """Try wrong keys, each only once."""

    async def again(guesser: int) -> None:
        for number in count():
            await client.get("/v1/tasks", headers={"x-key": f"wrong key {guesser} {number}"})

    await asyncio.gather(*(again(guesser) for guesser in range(_GUESSERS)))


def p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)] * 1000


def slow_urls(port: int) -> list[str]:
    """Return URLs of endpoints that never answer, on many hosts: one host gets a limited number of deliveries."""
    return [f"http://127.0.1.{1 + number % (_HOSTS - 1)}:{port}/{number}" for number in range(_SLOW_ENDPOINTS)]


async def make_noise(name: str, address: str, secret: str, port: int) -> None:
    """Make noise until the process is killed. It gives way to the service and to the measurement."""
    os.nice(10)
    headers = {"x-key": secret}
    async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
        if name == "queue":
            await fill(client, headers, slow_urls(port))
            await post_beyond_the_queue(client, headers, slow_urls(port))
        await (upload(client, headers) if name == "uploads" else guess(client))


async def main(only: str | None, *, unlimited: bool) -> None:
    receivers = Receivers()
    server = await asyncio.start_server(receivers.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    others = [await asyncio.start_server(receivers.serve, f"127.0.1.{number}", port) for number in range(1, _HOSTS)]
    for name in KINDS:
        if only in {None, name}:
            with TemporaryDirectory() as folder:
                async with service(Path(folder), unlimited=unlimited) as client:
                    await compare(name, client, receivers, port)
    for each in (server, *others):
        each.close()


async def compare(name: str, client: httpx.AsyncClient, receivers: Receivers, port: int) -> None:
    """Measure the quiet application alone, then beside the noise of another process, and print both."""
    quiet, noisy = await key(client, "quiet"), await key(client, "noisy")
    address = f"http://127.0.0.1:{port}"
    alone = await measure(client, quiet, receivers, address)
    noise = ["--noise", name, str(client.base_url), noisy["x-key"], str(port)]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.proof.neighbours", *noise)
    try:
        await asyncio.sleep(_SETTLE_S)
        beside = await measure(client, quiet, receivers, address)
        assert process.returncode is None, "the noise has ended"
    finally:
        await end(process)
    for kind in alone:
        before, after = p95(alone[kind]), p95(beside[kind])
        sys.stdout.write(
            f"{name}: {kind}: p95 {before:.0f} ms alone, {after:.0f} ms beside it, {after / before:.1f} times\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make neighbours", description=__doc__)
    parser.add_argument("--only", choices=KINDS, help="one kind of noise")
    parser.add_argument("--unlimited", action="store_true", help="without the limit of deliveries, for comparison")
    parser.add_argument("--noise", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.noise:
        name, url, secret, at = options.noise
        asyncio.run(make_noise(name, url, secret, int(at)))
    else:
        asyncio.run(main(options.only, unlimited=options.unlimited))
