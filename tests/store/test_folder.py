import asyncio
import os
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from threading import Event

import pytest

from app.errors import Unavailable
from app.store import FolderStore, Missing, sha256_of
from tests.sockets import until

KEY = "results/ab/abcdef.png"
MB = 1024 * 1024


class Breaking(BytesIO):
    """A file that fails after some chunks, like a full disk or a cancelled upload."""

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if not piece:
            raise OSError(28, "No space left on device")
        return piece


async def whole(store: FolderStore, key: str, start: int = 0, end: int = 10 * MB) -> bytes:
    return b"".join([piece async for piece in store.read(key, start, end)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "images"


@pytest.fixture
def store(root: Path) -> FolderStore:
    return FolderStore(root)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_a_stored_file_can_be_read(store: FolderStore) -> None:
    await store.put(KEY, BytesIO(b"an image"))

    assert await whole(store, KEY) == b"an image"


async def test_five_megabytes_are_read_unchanged(store: FolderStore) -> None:
    image = bytes(range(256)) * (5 * MB // 256)
    await store.put(KEY, BytesIO(image))

    assert await whole(store, KEY) == image


async def test_a_file_is_read_in_chunks(store: FolderStore) -> None:
    await store.put(KEY, BytesIO(bytes(MB)))

    assert max([len(piece) async for piece in store.read(KEY, 0, MB)]) <= 256 * 1024


async def test_the_whole_source_is_stored_from_any_position(store: FolderStore) -> None:
    source = BytesIO(b"an image")
    source.read()
    await store.put(KEY, source)

    assert await store.size(KEY) == 8


async def test_an_empty_file_is_stored(store: FolderStore) -> None:
    await store.put(KEY, BytesIO())

    assert (await store.size(KEY), await whole(store, KEY)) == (0, b"")


@pytest.mark.parametrize(
    ("start", "end", "part"),
    [(0, 4, b"0123"), (4, 10, b"456789"), (2, 3, b"2"), (9, 99, b"9"), (10, 20, b""), (99, 100, b""), (5, 5, b"")],
    ids=["head", "tail", "one byte", "past the end", "at the end", "beyond", "nothing"],
)
async def test_a_range_has_the_requested_bytes(store: FolderStore, start: int, end: int, part: bytes) -> None:
    await store.put(KEY, BytesIO(b"0123456789"))

    assert await whole(store, KEY, start, end) == part


async def test_storing_the_same_key_twice_keeps_one_file(store: FolderStore, root: Path) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    await store.put(KEY, BytesIO(b"an image"))

    assert files(root) == [KEY]


async def test_an_existing_file_is_not_written_again(store: FolderStore, root: Path) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    before = (root / KEY).stat()
    await store.put(KEY, BytesIO(b"an image"))

    assert (root / KEY).stat() == before


async def test_a_partial_file_is_replaced(store: FolderStore, root: Path) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    (root / KEY).write_bytes(b"an i")
    await store.put(KEY, BytesIO(b"an image"))

    assert await whole(store, KEY) == b"an image"
    assert files(root) == [KEY]


class Disk:
    """A recorder of `fsync`: the files and folders that were synced, and one folder whose sync fails."""

    def __init__(self) -> None:
        self.synced: set[int] = set()
        self.fails_at: Path | None = None
        self._fsync = os.fsync

    def fsync(self, handle: int) -> None:
        inode = os.fstat(handle).st_ino
        if self.fails_at is not None and self.fails_at.exists() and inode == self.fails_at.stat().st_ino:
            raise OSError(5, "Input/output error")
        self._fsync(handle)
        self.synced.add(inode)

    def has(self, path: Path) -> bool:
        return path.stat().st_ino in self.synced


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    return disk


@pytest.mark.parametrize("unsynced", ["results/ab", "results", "."], ids=["file", "folder", "folder above"])
async def test_a_put_syncs_what_an_interrupted_put_did_not(
    store: FolderStore, root: Path, disk: Disk, unsynced: str
) -> None:
    disk.fails_at = root / unsynced
    with pytest.raises(Unavailable):
        await store.put(KEY, BytesIO(b"an image"))
    disk.fails_at = None
    disk.synced.clear()
    await store.put(KEY, BytesIO(b"an image"))

    assert disk.has(root / unsynced)
    assert disk.has(root / "results/ab")


async def test_a_start_syncs_the_folder_that_an_interrupted_start_created(root: Path, disk: Disk) -> None:
    disk.fails_at = root.parent
    with pytest.raises(Unavailable):
        FolderStore(root)
    disk.fails_at = None
    FolderStore(root)

    assert disk.has(root.parent)


async def test_a_failed_put_leaves_no_file(store: FolderStore, root: Path) -> None:
    with pytest.raises(Unavailable, match="No space left on device"):
        await store.put(KEY, Breaking(b"half an image"))

    assert files(root) == []


async def test_a_failed_put_can_be_repeated(store: FolderStore) -> None:
    with pytest.raises(Unavailable):
        await store.put(KEY, Breaking(b"half an image"))
    await store.put(KEY, BytesIO(b"an image"))

    assert await whole(store, KEY) == b"an image"


async def test_a_partial_file_of_a_crash_is_not_visible(store: FolderStore, root: Path) -> None:
    (root / KEY).parent.mkdir(parents=True)
    (root / f"{KEY}.x1y2.part").write_bytes(b"half an")

    with pytest.raises(Missing):
        await store.size(KEY)


async def test_a_partial_file_of_a_crash_does_not_prevent_a_put(store: FolderStore, root: Path) -> None:
    (root / KEY).parent.mkdir(parents=True)
    (root / f"{KEY}.x1y2.part").write_bytes(b"half an")
    await store.put(KEY, BytesIO(b"an image"))

    assert await whole(store, KEY) == b"an image"


async def test_a_partial_file_of_a_crash_is_removed_with_its_key(store: FolderStore, root: Path) -> None:
    (root / KEY).parent.mkdir(parents=True)
    for name in (f"{KEY}.x1y2.part", f"{KEY}.z3.part", f"{KEY}2.x1y2.part"):
        (root / name).write_bytes(b"half an")
    await store.put(KEY, BytesIO(b"an image"))
    await store.remove(KEY)

    assert files(root) == [f"{KEY}2.x1y2.part"]


async def test_an_unknown_key_is_missing(store: FolderStore) -> None:
    with pytest.raises(Missing):
        await store.size(KEY)
    with pytest.raises(Missing):
        await whole(store, KEY)


async def test_a_second_store_on_the_folder_sees_the_same_files(store: FolderStore, root: Path) -> None:
    await store.put(KEY, BytesIO(b"an image"))

    assert await FolderStore(root).size(KEY) == 8


async def test_a_check_leaves_no_file(store: FolderStore, root: Path) -> None:
    await store.check()

    assert files(root) == []


async def test_a_check_ignores_the_file_of_an_interrupted_check(store: FolderStore, root: Path) -> None:
    (root / "check").mkdir()
    await store.check()


def written(root: Path) -> bool:
    """Whether anything was created or deleted in the folder since the last call."""
    changed = root.stat().st_mtime_ns != 0
    os.utime(root, ns=(0, 0))
    return changed


async def test_a_check_after_a_recent_success_writes_nothing(store: FolderStore, root: Path) -> None:
    await store.check()
    first = written(root)
    await store.check()

    assert (first, written(root)) == (True, False)


async def test_a_check_after_a_failure_writes_a_file(store: FolderStore, root: Path) -> None:
    await store.check()
    with pytest.raises(Unavailable):
        await store.put(KEY, Breaking(b"half an image"))
    written(root)
    await store.check()

    assert written(root)


async def test_a_recent_success_expires(root: Path) -> None:
    store = FolderStore(root, success_lasts_s=0)
    await store.check()
    written(root)
    await store.check()

    assert written(root)


async def test_a_missing_folder_fails_the_check_even_after_a_recent_success(store: FolderStore, root: Path) -> None:
    await store.check()
    await asyncio.to_thread(root.rmdir)

    with pytest.raises(Unavailable, match="cannot be used"):
        await store.check()


async def test_a_missing_folder_is_not_created_again(store: FolderStore, root: Path) -> None:
    await asyncio.to_thread(root.rmdir)

    with pytest.raises(Unavailable, match="cannot be written"):
        await store.put(KEY, BytesIO(b"an image"))
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be used"):
            await store.check()
    await asyncio.to_thread(root.mkdir)
    await store.put(KEY, BytesIO(b"an image"))


class Hanging(BytesIO):
    """A file that blocks until it is released, like one on an unavailable network disk."""

    def __init__(self, data: bytes, let_go: Event) -> None:
        super().__init__(data)
        self._let_go = let_go

    def read(self, size: int | None = -1, /) -> bytes:
        self._let_go.wait(60)
        return super().read(size)


async def test_a_folder_that_hangs_is_unavailable_and_does_not_block_other_threads(root: Path) -> None:
    store, let_go = FolderStore(root, timeout_s=0.2), Event()
    puts = [store.put(f"{KEY}{number}", Hanging(b"an image", let_go)) for number in range(40)]
    hanging = asyncio.gather(*puts, return_exceptions=True)
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await asyncio.to_thread(root.stat)
    found = await hanging
    let_go.set()

    assert {str(each) for each in found} == {"the image store cannot be written: timeout"}


async def test_an_abandoned_write_does_not_complete_later(root: Path) -> None:
    store, let_go = FolderStore(root, timeout_s=0.1), Event()
    source = Hanging(b"an image", let_go)
    with pytest.raises(Unavailable):
        await store.put(KEY, source)
    source.seek(4)  # as who keeps it aside meanwhile may do
    let_go.set()
    async with asyncio.timeout(30):
        while files(root):  # noqa: ASYNC110 - an abandoned thread does not report its end
            await asyncio.sleep(0.01)

    with pytest.raises(Missing):
        await store.size(KEY)


@pytest.fixture
def lost(store: FolderStore, root: Path) -> FolderStore:
    """A store whose folder has become a file. (Permissions would not stop root.)"""
    root.rmdir()
    root.write_bytes(b"in the way")
    return store


async def test_a_folder_that_cannot_be_written_is_unavailable(lost: FolderStore) -> None:
    with pytest.raises(Unavailable, match="cannot be written"):
        await lost.put(KEY, BytesIO(b"an image"))


async def test_a_folder_that_cannot_be_read_is_unavailable(lost: FolderStore) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        await lost.size(KEY)
    with pytest.raises(Unavailable, match="cannot be read"):
        await whole(lost, KEY)


async def test_a_folder_that_cannot_be_used_fails_the_check(lost: FolderStore) -> None:
    with pytest.raises(Unavailable, match="cannot be used"):
        await lost.check()


def test_a_folder_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")

    with pytest.raises(Unavailable, match="Not a directory"):
        FolderStore(tmp_path / "file" / "images")


def test_the_digest_covers_the_whole_file_from_any_position() -> None:
    file = BytesIO(b"x" * (2 * MB + 1))
    file.read(7)

    assert sha256_of(file) == sha256(b"x" * (2 * MB + 1)).hexdigest()


@pytest.mark.parametrize("times", [1, 2], ids=["at once", "by who comes after a crash"])
async def test_a_removed_file_stays_removed_after_a_power_failure(
    store: FolderStore, root: Path, disk: Disk, times: int
) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    for _ in range(times):
        disk.synced.clear()
        await store.remove(KEY)

    assert disk.has((root / KEY).parent)


async def test_removing_an_unknown_key_succeeds(store: FolderStore) -> None:
    await store.remove("results/zz/none.png")


def move(folder: Path, to: Path) -> None:
    folder.rename(to)


async def test_a_removal_while_the_folder_is_missing_fails_and_can_be_repeated(root: Path, store: FolderStore) -> None:
    await store.put(KEY, BytesIO(b"an image"))
    away = root.with_name("away")
    move(root, away)
    with pytest.raises(Unavailable):
        await store.remove(KEY)
    move(away, root)
    await store.remove(KEY)

    assert files(root) == []


async def test_a_file_that_is_opened_too_late_is_closed(root: Path) -> None:
    store = FolderStore(root, timeout_s=0.05)
    path = root / "pipe"  # opening it waits for a writer
    os.mkfifo(path)
    with pytest.raises(Unavailable):
        await whole(store, "pipe")
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # no thread had begun to open it

    async def is_closed() -> bool:
        try:
            os.write(writer, b"x")
        except BrokenPipeError:
            return True
        return False

    await until(is_closed)
    os.close(writer)
