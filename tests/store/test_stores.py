"""The conformance suite of the stores: a folder, and a bucket of each supported cloud."""

import asyncio
import os
import resource
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

import obstore
import pytest

from app.errors import ConfigurationError, Unavailable
from app.store import FolderStore, Missing, Store
from app.store.bucket import ObjectStore
from tests.store.buckets import SCHEMES, variables

KEY = "results/ab/abcdef.png"
MB = 1024 * 1024


@pytest.fixture(params=["folder", *SCHEMES])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "images")
    for variable, value in variables(request.param, request.getfixturevalue(request.param)).items():
        monkeypatch.setenv(variable, value)
    return ObjectStore(f"{request.param}://pictures/{tmp_path.name}")


async def whole(store: Store, key: str, start: int = 0, end: int = 100 * MB) -> bytes:
    return b"".join([piece async for piece in store.read(key, start, end)])


async def test_a_stored_file_is_read_unchanged(store: Store) -> None:
    await store.put(KEY, BytesIO(b"an image"))

    assert await store.size(KEY) == 8
    assert await whole(store, KEY, 0, 8) == b"an image"


async def test_a_removed_file_is_missing_and_may_be_removed_again(store: Store) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    await store.put("results/ab/another.png", BytesIO(b"another"))
    await store.remove(KEY)
    await store.remove(KEY)

    with pytest.raises(Missing):
        await store.size(KEY)
    assert await store.size("results/ab/another.png") == 7


async def test_a_range_can_be_read(store: Store) -> None:
    await store.put(KEY, BytesIO(b"0123456789"))

    assert await whole(store, KEY, 3, 7) == b"3456"


async def test_the_whole_source_is_stored_from_any_position(store: Store) -> None:
    source = BytesIO(b"an image")
    source.seek(5)

    await store.put(KEY, source)

    assert await whole(store, KEY, 0, 8) == b"an image"


async def test_storing_the_same_key_again_changes_nothing(store: Store) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    await store.put(KEY, BytesIO(b"an image"))

    assert await whole(store, KEY, 0, 8) == b"an image"


async def test_an_unknown_key_is_missing(store: Store) -> None:
    with pytest.raises(Missing):
        await store.size(KEY)
    with pytest.raises(Missing):
        await whole(store, KEY)


async def test_a_check_leaves_no_object(store: Store) -> None:
    await store.check()


async def test_twenty_megabytes_are_stored_and_read_in_chunks_with_constant_memory(store: Store) -> None:
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


async def test_no_request_stays_open_while_a_reader_processes_a_chunk(scheme: str) -> None:
    """A slow reader causes no timeout: the next chunk is a new request, which finds that the image is missing."""
    store, image = ObjectStore(f"{scheme}://pictures/slow"), os.urandom(3 * MB)
    await store.put(KEY, BytesIO(image))
    reading = store.read(KEY, 0, len(image))
    first = await anext(reading)
    await store.remove(KEY)
    with pytest.raises(Missing):
        await anext(reading)

    assert first == image[: len(first)]
    assert len(first) < len(image)


async def test_a_missing_bucket_is_unavailable(scheme: str) -> None:
    nowhere = ObjectStore(f"{scheme}://nowhere/prefix")

    with pytest.raises(Unavailable, match="no such bucket"):
        await nowhere.put(KEY, BytesIO(b"an image"))
    with pytest.raises(Unavailable):
        await nowhere.check()


ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


async def test_an_unreachable_store_is_unavailable_and_its_address_is_not_shown(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS[scheme], "http://127.0.0.1:9")
    down = ObjectStore(f"{scheme}://pictures")

    with pytest.raises(Unavailable) as refused:
        await down.put(KEY, BytesIO(b"an image"))
    assert "127.0.0.1" not in refused.value.detail


@pytest.mark.parametrize("url", ["s3://", "gs://", "az://"])
def test_a_url_without_a_bucket_is_refused_with_advice(url: str) -> None:
    with pytest.raises(ConfigurationError, match="FLUXHOOK_STORE_URL"):
        ObjectStore(url)


@pytest.mark.parametrize(
    ("scheme", "name", "value"),
    [
        ("s3", "AWS_SECRET_ACCESS_KEY", "wrong"),
        ("s3", "AWS_ACCESS_KEY_ID", "nobody"),
        ("gs", "GOOGLE_BEARER_TOKEN", "wrong"),
        ("az", "AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc="),
    ],
    indirect=["scheme"],
)
async def test_a_wrong_key_is_unavailable_and_not_shown(
    scheme: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    refused = ObjectStore(f"{scheme}://pictures")

    with pytest.raises(Unavailable) as error:
        await refused.put(KEY, BytesIO(b"an image"))
    assert value not in error.value.detail


@pytest.mark.parametrize(
    ("scheme", "name"),
    [
        *(("s3", name) for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")),
        ("gs", "GOOGLE_BASE_URL"),
        *(("az", name) for name in ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
    ],
    indirect=["scheme"],
)
@pytest.mark.parametrize("value", ["minio:9000", "minio", "", "http://", "//minio:9000", "ftp://minio", "http://a b"])
def test_an_endpoint_that_is_not_a_url_is_refused_by_its_name(
    scheme: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"^{name}: must be an http"):
        ObjectStore(f"{scheme}://pictures")


@pytest.mark.parametrize("value", ["http://minio:99999", "http://minio:0", "http://[::1", "https://minio/a b"])
@pytest.mark.parametrize("scheme", ["s3"], indirect=True)
def test_an_endpoint_with_an_invalid_port_or_host_is_refused(
    scheme: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)

    with pytest.raises(ConfigurationError, match=r"^AWS_ENDPOINT_URL: "):
        ObjectStore(f"{scheme}://pictures")


@pytest.mark.parametrize(
    ("scheme", "name", "value"),
    [
        ("s3", "AWS_REGION", "us east"),
        ("s3", "AWS_ACCESS_KEY_ID", "key\n"),
        ("s3", "AWS_SECRET_ACCESS_KEY", "secr\u00e9t"),
        ("gs", "GOOGLE_BEARER_TOKEN", "a token"),
    ],
    indirect=["scheme"],
)
def test_a_key_or_region_that_fits_in_no_header_is_refused_and_not_shown(
    scheme: str, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=f"^{name}: must not contain") as refused:
        ObjectStore(f"{scheme}://pictures")
    assert value not in refused.value.detail


class PanicException(BaseException):
    """A panic in a synchronous call of obstore, whose own class no module exports."""


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)
@pytest.mark.parametrize("raised", [RuntimeError, PanicException, MemoryError])
async def test_whatever_the_library_raises_is_unavailable(
    scheme: str, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: object, **_options: object) -> NoReturn:
        raise raised("http://user:password@bucket")

    failing = ObjectStore(f"{scheme}://pictures")
    for function in ("put_async", "get_async", "head_async", "delete_async"):
        monkeypatch.setattr(obstore, function, panic)
    for call in (failing.put(KEY, BytesIO(b"")), failing.size(KEY), failing.remove(KEY), failing.check()):
        with pytest.raises(Unavailable, match=f"does not answer: {raised.__name__}$"):
            await call
    with pytest.raises(Unavailable):
        await whole(failing, KEY, 0, 1)


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)
async def test_a_cancelled_put_is_not_an_outage(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(*_: object, **_options: object) -> NoReturn:
        raise asyncio.CancelledError

    monkeypatch.setattr(obstore, "put_async", cancel)
    with pytest.raises(asyncio.CancelledError):
        await ObjectStore(f"{scheme}://pictures").put(KEY, BytesIO(b""))
