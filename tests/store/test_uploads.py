"""The limits of large request bodies that arrive at the same time."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from app.errors import Overloaded
from app.store import DiskReserve, Uploads

MB = 1024 * 1024


def uploads(folder: Path) -> Uploads:
    """Allow four bodies of 10 MB in total, and do not wait for a place."""
    return Uploads(folder, DiskReserve({}), at_once=4, max_bytes=10 * MB, wait_s=0)


async def count_places(limited: Uploads, size: int) -> int:
    """Return how many bodies of this size have a place at the same time."""
    async with AsyncExitStack() as held:
        for number in range(20):
            try:
                await held.enter_async_context(limited.place(size))
            except Overloaded:
                return number
    return 20


@pytest.mark.parametrize(
    ("size", "places"),
    [(3 * MB, 3), (10 * MB, 1), (50 * MB, 1), (100_000, 4), (64 * 1024, 20)],
    ids=["by bytes", "all bytes", "more than all", "by number", "small"],
)
async def test_uploads_are_limited_in_bytes_and_in_number(tmp_path: Path, size: int, places: int) -> None:
    limited = uploads(tmp_path)

    assert await count_places(limited, size) == places
    assert await count_places(limited, size) == places  # the places are free again


async def test_an_upload_waits_for_a_place(tmp_path: Path) -> None:
    limited = Uploads(tmp_path, DiskReserve({}), at_once=1)

    async def upload() -> None:
        async with limited.place(MB):
            pass

    async with limited.place(MB):
        waiting = asyncio.create_task(upload())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_a_start_deletes_what_an_earlier_process_left(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "tmpleft").write_bytes(b"x")

    limited = Uploads(tmp_path / "uploads", DiskReserve({}))
    limited.empty()
    with limited.open() as file:
        file.write(b"y")

        assert list((tmp_path / "uploads").iterdir()) == []


def test_a_folder_that_cannot_be_created_does_not_prevent_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    Uploads(tmp_path / "file" / "uploads", DiskReserve({})).empty()
