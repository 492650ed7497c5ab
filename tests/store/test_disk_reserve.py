"""The reserve of disk space, on the real disk of the tests: the reserve is chosen to be below or above what is free."""

import shutil
from pathlib import Path

import pytest

from app.errors import DiskFull
from app.store import DiskReserve, Uploads
from app.store.disk_reserve import Volume

MB = 1024 * 1024


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


async def test_room_is_refused_only_below_the_reserve(tmp_path: Path) -> None:
    await DiskReserve({"DATA_DIR": tmp_path}, free(tmp_path) // 2).require()
    with pytest.raises(DiskFull):
        await DiskReserve({"DATA_DIR": tmp_path}, free(tmp_path) * 2).require()


async def test_room_for_more_is_required_beside_the_reserve(tmp_path: Path) -> None:
    disk = DiskReserve({"DATA_DIR": tmp_path}, free(tmp_path) // 2)

    with pytest.raises(DiskFull):
        await disk.require(free(tmp_path))


async def test_an_upload_needs_room_beside_the_uploads_that_are_under_way(tmp_path: Path) -> None:
    space = free(tmp_path)
    uploads = Uploads(tmp_path, DiskReserve({"DATA_DIR": tmp_path}, space // 4), at_once=4, max_bytes=space)

    async with uploads.place(space // 4):
        with pytest.raises(DiskFull):
            async with uploads.place(space // 4):
                pass


@pytest.mark.parametrize("reserve", [0, None])
async def test_a_reserve_of_nothing_and_the_default_accept_a_disk_with_room(
    tmp_path: Path, reserve: int | None
) -> None:
    await DiskReserve({"DATA_DIR": tmp_path}, reserve).require()


def test_the_default_is_512_mb_or_a_tenth_of_a_smaller_volume(tmp_path: Path) -> None:
    (volume,) = DiskReserve({"DATA_DIR": tmp_path}).read()

    assert volume.reserve == min(512 * MB, shutil.disk_usage(tmp_path).total // 10)


def test_folders_on_one_volume_are_named_once_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    folders = {"DATA_DIR": tmp_path, "the database": tmp_path, "the image store": tmp_path / "away"}

    assert [volume.name for volume in DiskReserve(folders).read()] == ["DATA_DIR"]


@pytest.mark.parametrize(
    ("free_mb", "note"),
    [
        (1024, None),
        (1023, "the disk of DATA_DIR has 1023 MB left: below 512 MB no tasks are accepted or submitted"),
        (511, "no tasks are accepted or submitted: the disk of DATA_DIR has 511 MB left, and 512 MB are reserved"),
    ],
)
def test_a_note_warns_at_twice_the_reserve(free_mb: int, note: str | None) -> None:
    assert Volume("DATA_DIR", free_mb * MB, 512 * MB).note == note
