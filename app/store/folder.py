"""The store in a folder. A file is written under a temporary name, synced and renamed, and its folder is synced."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Event
from typing import IO, TypeVar

from app.errors import StoreUnavailable
from app.store.contract import Missing
from app.store.health_cache import SUCCESS_LASTS_S, RecentSuccess

T = TypeVar("T")

_CHUNK = 256 * 1024  # bytes
_THREADS = 16
_TIMEOUT_S = 60.0  # for one operation; a network file system may hang without limit


class FolderStore:
    """The store in a folder. All keys are below `root`; temporary names end in `.part`.

    If `root` disappears, it is not created again: files in a new folder would be hidden when the disk is mounted again.
    """

    def __init__(self, root: Path, success_lasts_s: float = SUCCESS_LASTS_S, timeout_s: float = _TIMEOUT_S) -> None:
        self._root = root
        self._recent_success = RecentSuccess(success_lasts_s)
        self._timeout_s = timeout_s
        # A separate pool: a folder that hangs must not occupy the threads that download and spool images.
        self._threads = ThreadPoolExecutor(_THREADS, "store")
        with self._translating_errors("created"):
            make_folder(root)

    async def put(self, key: str, source: IO[bytes]) -> None:
        abandoned = Event()
        try:
            with self._translating_errors("written"):
                await self._run(self._write, key, source, abandoned)
        finally:
            abandoned.set()
        self._recent_success.record_success()

    async def size(self, key: str) -> int:
        with self._translating_errors("read", key):
            return (await self._run((self._root / key).stat)).st_size

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        with self._translating_errors("read", key):
            # Unbuffered: closing a buffered file waits for a read in another thread, which may hang.
            file = await self._open(self._root / key)
        with file:
            while start < end:
                with self._translating_errors("read"):
                    chunk = await self._run(_read_chunk, file, start, end)
                if not chunk:
                    return
                start += len(chunk)
                yield chunk

    async def remove(self, key: str) -> None:
        with self._translating_errors("written"):
            await self._run(self._remove, key)

    async def check(self) -> None:
        """Write a small file. After a recent success, only check that the folder exists, is writable and not full."""
        with self._translating_errors("used"):
            await self._run(_inspect if self._recent_success else _test_write, self._root)
        if not self._recent_success:
            self._recent_success.record_success()

    async def _open(self, path: Path) -> IO[bytes]:
        """Open a file to read. It is closed if its reader was cancelled before it was open."""
        opening = self._threads.submit(path.open, "rb", 0)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(opening)
        except BaseException:
            opening.add_done_callback(_close_opened)
            raise

    async def _run(self, call: Callable[..., T], *arguments: object) -> T:
        async with asyncio.timeout(self._timeout_s):
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)

    def _write(self, key: str, source: IO[bytes], abandoned: Event) -> None:
        _require_folder(self._root)
        write(self._root / key, source, abandoned)

    def _remove(self, key: str) -> None:
        """Sync the folder even if the file is missing: an earlier call may have deleted it without this sync."""
        _require_folder(self._root)
        path = self._root / key
        for found in (path, *path.parent.glob(f"{path.name}.*.part")):  # a process that died leaves such a part
            found.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # the folder was never created
            sync_folder(path.parent)

    @contextmanager
    def _translating_errors(self, participle: str, key: str = "") -> Generator[None]:
        """Translate any error into StoreUnavailable, and a missing file into Missing if `key` is given."""
        try:
            yield
        except Exception as error:
            if key and isinstance(error, FileNotFoundError):
                raise Missing(key) from error
            self._recent_success.record_failure()
            reason = type(error).__name__
            if isinstance(error, OSError):
                reason = error.strerror or "timeout"
            raise StoreUnavailable(f"the image store cannot be {participle}: {reason}") from error


def _close_opened(opening: Future[FileIO]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _read_chunk(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(min(_CHUNK, end - start))


def write(path: Path, source: IO[bytes], abandoned: Event | None = None) -> None:
    """Store `source` durably at `path`. Raises OSError; also if `abandoned` is set before the rename.

    An existing file of the same size is kept. One of another size is replaced: it comes from an incomplete copy of the
    folder, because this function leaves no partial file.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    if not path.exists() or path.stat().st_size != size:
        make_folder(path.parent)
        _write_and_rename(path, source, abandoned)
    sync_folder(path.parent)  # even for an existing file: its writer may have stopped before this


def _write_and_rename(path: Path, source: IO[bytes], abandoned: Event | None) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False) as part:
        try:
            shutil.copyfileobj(source, part, _CHUNK)
            part.flush()
            os.fsync(part.fileno())
            _require_active(abandoned)
            Path(part.name).rename(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _require_active(abandoned: Event | None) -> None:
    """Fail if the caller has given up: it may have moved the position in `source`, so the copy cannot be trusted."""
    if abandoned is not None and abandoned.is_set():
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _inspect(root: Path) -> None:
    """Check without a write that the folder exists, is writable and has free space. Raises OSError."""
    _require_folder(root)
    if not os.access(root, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    if not os.statvfs(root).f_bavail:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _test_write(root: Path) -> None:
    """Write and read a file with a random name: process ids repeat in containers that share a folder."""
    with NamedTemporaryFile(dir=root, prefix="check.", suffix=".part") as part:
        part.write(b"fluxhook")
        part.flush()
        os.fsync(part.fileno())
        part.seek(0)
        part.read()


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and sync each parent, so that a crash does not lose the folder. Raises OSError.

    Nothing is created in a folder before its parent is synced. For an existing folder only this last sync can be
    missing.
    """
    if folder.exists():
        with suppress(PermissionError):  # this process cannot have created a folder in a parent that it may not open
            sync_folder(folder.parent)
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
