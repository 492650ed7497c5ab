"""What every store promises, asked of each: a folder, and a bucket behind the S3 protocol."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from app.errors import ConfigurationError, Unavailable
from app.store import FolderStore, Missing, ObjectStore, Store

KEY = "results/ab/abcdef.png"
MB = 1024 * 1024
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL")

Connect = Callable[[str], ObjectStore]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server of its own process that speaks S3, checks signatures, and has one bucket."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    (folder / "pictures").mkdir()
    command = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "NANIO_ACCESS_KEY": "key", "NANIO_SECRET_KEY": "secret"}
    with subprocess.Popen(  # noqa: S603
        [*command, "--data-dir", str(folder)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def connect(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Buckets are found and opened by the variables that the cloud's own tools read."""
    values = ("key", "secret", "us-east-1", endpoint)
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    return ObjectStore


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "images")
    opened: ObjectStore = request.getfixturevalue("connect")(f"s3://pictures/{tmp_path.name}")
    return opened


async def whole(store: Store, key: str, start: int = 0, end: int = 100 * MB) -> bytes:
    return b"".join([piece async for piece in store.read(key, start, end)])


async def test_what_was_put_comes_back(store: Store) -> None:
    await store.put(KEY, BytesIO(b"an image"))

    assert await store.size(KEY) == 8
    assert await whole(store, KEY, 0, 8) == b"an image"


async def test_a_part_can_be_read(store: Store) -> None:
    await store.put(KEY, BytesIO(b"0123456789"))

    assert await whole(store, KEY, 3, 7) == b"3456"


async def test_all_of_a_file_is_put_wherever_it_was_read_to(store: Store) -> None:
    source = BytesIO(b"an image")
    source.seek(5)

    await store.put(KEY, source)

    assert await whole(store, KEY, 0, 8) == b"an image"


async def test_putting_the_same_again_changes_nothing(store: Store) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    await store.put(KEY, BytesIO(b"an image"))

    assert await whole(store, KEY, 0, 8) == b"an image"


async def test_what_was_never_put_is_missing(store: Store) -> None:
    with pytest.raises(Missing):
        await store.size(KEY)
    with pytest.raises(Missing):
        await whole(store, KEY)


async def test_a_check_leaves_nothing_behind_and_raises_nothing(store: Store) -> None:
    await store.check()


async def test_twenty_megabytes_go_both_ways_in_pieces_with_flat_memory(store: Store) -> None:
    size = 20 * MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with TemporaryFile() as file:
        for _ in range(20):
            file.write(os.urandom(MB))
        await store.put(KEY, file)
        pieces = [len(piece) async for piece in store.read(KEY, 0, size)]
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert sum(pieces) == size
    assert max(pieces) <= 4 * MB
    assert grown_kb < 3 * size // 1024


async def test_a_bucket_that_is_not_there_is_unavailable(connect: Connect) -> None:
    nowhere = connect("s3://nowhere/prefix")

    with pytest.raises(Unavailable, match="no such bucket"):
        await nowhere.put(KEY, BytesIO(b"an image"))
    with pytest.raises(Unavailable):
        await nowhere.check()


async def test_a_store_that_is_down_is_unavailable_and_says_nothing_of_its_address(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    down = connect("s3://pictures")

    with pytest.raises(Unavailable) as refused:
        await down.put(KEY, BytesIO(b"an image"))
    assert "127.0.0.1" not in refused.value.detail


@pytest.mark.parametrize("url", ["s3://", "gs://", "az://"])
def test_an_address_without_a_bucket_is_refused_with_its_mend(url: str) -> None:
    with pytest.raises(ConfigurationError, match="FLUXHOOK_STORE_URL"):
        ObjectStore(url)


@pytest.mark.parametrize(("name", "value"), [("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_ACCESS_KEY_ID", "nobody")])
async def test_a_wrong_key_is_unavailable_and_not_shown(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    refused = connect("s3://pictures")

    with pytest.raises(Unavailable) as error:
        await refused.put(KEY, BytesIO(b"an image"))
    assert value not in error.value.detail
