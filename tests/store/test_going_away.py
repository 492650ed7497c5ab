"""A store that becomes unavailable during an operation: it is reported, and no partial object is visible."""

import asyncio
import os
import socket
from dataclasses import replace
from io import BytesIO

import pytest

from app.errors import StoreUnavailable, Unavailable
from app.store import Missing
from app.store.bucket import ObjectStore
from app.web.routes.health import read_readiness
from tests.store.buckets import cutting, variables
from tests.world import World

KEY = "results/ab/abcdef.png"
MB = 1024 * 1024
SIZE = 8 * MB  # goes out in parts


@pytest.fixture
def address(request: pytest.FixtureRequest, scheme: str) -> str:
    return str(request.getfixturevalue(scheme))


def through(scheme: str, address: str, monkeypatch: pytest.MonkeyPatch, prefix: str) -> ObjectStore:
    """The same bucket at another address."""
    for name, value in variables(scheme, address).items():
        monkeypatch.setenv(name, value)
    return ObjectStore(f"{scheme}://pictures/{prefix}")


async def test_an_interrupted_put_is_unavailable_and_leaves_no_object(
    scheme: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = ObjectStore(f"{scheme}://pictures/put")
    with cutting(address, after=SIZE // 2) as way:
        breaking = through(scheme, way, monkeypatch, "put")
        with pytest.raises(Unavailable, match="does not answer"):
            await breaking.put(KEY, BytesIO(os.urandom(SIZE)))

    with pytest.raises(Missing):
        await direct.size(KEY)


async def test_an_interrupted_read_is_unavailable_after_the_received_bytes(
    scheme: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = ObjectStore(f"{scheme}://pictures/read")
    await direct.put(KEY, BytesIO(bytes(SIZE)))
    came: list[int] = []

    async def read(store: ObjectStore) -> None:
        async for piece in store.read(KEY, 0, SIZE):
            came.append(len(piece))  # noqa: PERF401 - what came before it broke off counts

    with cutting(address, after=SIZE // 2) as way, pytest.raises(Unavailable, match="does not answer"):
        await read(through(scheme, way, monkeypatch, "read"))

    assert 0 < sum(came) < SIZE


CALLS = {
    "put": lambda store: store.put(KEY, BytesIO(b"image")),
    "size": lambda store: store.size(KEY),
    "read": lambda store: anext(store.read(KEY, 0, SIZE)),
    "remove": lambda store: store.remove(KEY),
    "check": lambda store: store.check(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_of_a_bucket_that_falls_silent_ends_within_its_limit(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never answers
        for name, value in variables("s3", f"http://127.0.0.1:{silent.getsockname()[1]}").items():
            monkeypatch.setenv(name, value)
        store = ObjectStore("s3://pictures/silent", call_s=0.2, check_s=0.2)
        async with asyncio.timeout(30):  # less than the limit of one request
            with pytest.raises(StoreUnavailable, match="does not answer: TimeoutError"):
                await CALLS[call](store)


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)
async def test_the_service_is_not_ready_once_its_bucket_has_failed(
    world: World, scheme: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cutting(address, after=MB) as way:
        store = through(scheme, way, monkeypatch, "ready")
        use = replace(world.use, store=store)
        before = (await read_readiness(use)).status
        with pytest.raises(Unavailable):
            await store.put(KEY, BytesIO(bytes(SIZE)))
        after = await read_readiness(use)

    assert (before, after.status) == ("ready", "not ready")
    assert after.checks["store"].startswith("the image store does not answer")


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)
async def test_a_check_after_a_recent_success_sends_no_request(
    scheme: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cutting(address, after=16 * 1024) as way:
        believed = through(scheme, way, monkeypatch, "believed")
        await believed.check()
        doubted = ObjectStore(f"{scheme}://pictures/doubted", success_lasts_s=0)
        with pytest.raises(Unavailable):
            await asyncio.gather(*(doubted.check() for _ in range(40)))  # until the way has ended
        await believed.check()
