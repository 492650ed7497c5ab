"""The store in a folder: written aside, synced, renamed, and the folder synced; so a file is whole or absent."""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Event
from typing import IO, TypeVar

from app.errors import Unavailable
from app.store.contract import Missing
from app.store.health_cache import BELIEVED_S, RecentSuccess

T = TypeVar("T")

_PIECE = 256 * 1024
_ERRANDS = 16  # at once, each in a thread
_PATIENCE_S = 60.0  # with one errand: a disk behind a network may hang for as long as it likes


class FolderStore:
    """Everything lies below `root`; what is being written has a name that ends in `.part`.

    Where `root` goes away it is not made again: what is put in its place would be hidden when its disk comes back.
    """

    def __init__(self, root: Path, believed_s: float = BELIEVED_S, patience_s: float = _PATIENCE_S) -> None:
        self._root = root
        self._trust = RecentSuccess(believed_s)
        self._patience_s = patience_s
        # Of its own: a folder that hangs must not hold the threads in which images are downloaded and kept aside.
        self._threads = ThreadPoolExecutor(_ERRANDS, "store")
        with self._failing("made"):
            make_folder(root)

    async def put(self, key: str, source: IO[bytes]) -> None:
        given_up = Event()
        try:
            with self._failing("written"):
                await self._errand(self._write, key, source, given_up)
        finally:
            given_up.set()
        self._trust.gain()

    async def size(self, key: str) -> int:
        with self._failing("read", key):
            return (await self._errand((self._root / key).stat)).st_size

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        with self._failing("read", key):
            # Without a buffer: to close one waits for whoever reads from it, and that may hang.
            file = await self._errand((self._root / key).open, "rb", 0)
        with file:
            while start < end:
                with self._failing("read"):
                    piece = await self._errand(_piece, file, start, end)
                if not piece:
                    return
                start += len(piece)
                yield piece

    async def remove(self, key: str) -> None:
        with self._failing("written"):
            await self._errand(self._remove, key)

    async def check(self) -> None:
        """A folder that has just been written is only looked at: is it there, writable, not full?"""
        with self._failing("used"):
            await self._errand(_look_at if self._trust else _try_out, self._root)
        if not self._trust:
            self._trust.gain()

    async def _errand(self, call: Callable[..., T], *given: object) -> T:
        async with asyncio.timeout(self._patience_s):
            return await asyncio.get_running_loop().run_in_executor(self._threads, call, *given)

    def _write(self, key: str, source: IO[bytes], given_up: Event) -> None:
        _require(self._root)
        write(self._root / key, source, given_up)

    def _remove(self, key: str) -> None:
        """Synced also where nothing is found: whoever removed it may not have come to this."""
        _require(self._root)
        path = self._root / key
        path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):  # where nothing was ever kept
            sync_folder(path.parent)

    @contextmanager
    def _failing(self, what: str, key: str = "") -> Generator[None]:
        """The system's errors as ours; a file that is not there is Missing where a key is read."""
        try:
            yield
        except OSError as error:
            if key and isinstance(error, FileNotFoundError):
                raise Missing(key) from error
            self._trust.lose()
            raise Unavailable(f"the image store cannot be {what}: {error.strerror or 'it hangs'}") from error


def _piece(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(min(_PIECE, end - start))


def write(path: Path, source: IO[bytes], given_up: Event | None = None) -> None:
    """Have these bytes on disk under this path, the folder synced also where the file is found. Raises OSError.

    A file that is shorter or longer was not written here: somebody's copy of the folder broke off in it.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    if not path.exists() or path.stat().st_size != size:
        make_folder(path.parent)
        _write_aside(path, source, given_up)
    sync_folder(path.parent)  # whoever wrote a file that is found may not have come to this


def _write_aside(path: Path, source: IO[bytes], given_up: Event | None) -> None:
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False) as part:
        try:
            shutil.copyfileobj(source, part, _PIECE)
            part.flush()
            os.fsync(part.fileno())
            _require_patience(given_up)
            Path(part.name).rename(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _require(root: Path) -> None:
    if not root.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _require_patience(given_up: Event | None) -> None:
    """What was written since is not to be trusted: somebody else may have moved in the same source."""
    if given_up is not None and given_up.is_set():
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def _look_at(root: Path) -> None:
    """What can be seen without writing: the folder is there, it may be written, and there is room."""
    _require(root)
    if not os.access(root, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    if not os.statvfs(root).f_bavail:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _try_out(root: Path) -> None:
    """Under a name of its own, because process ids repeat when containers share a folder."""
    with NamedTemporaryFile(dir=root, prefix="check.", suffix=".part") as part:
        part.write(b"fluxhook")
        part.flush()
        os.fsync(part.fileno())
        part.seek(0)
        part.read()


def make_folder(folder: Path) -> None:
    """Have a folder, and the one it is listed in synced: else a crash may forget the folder with all in it.

    What is in a folder was made after it was synced, so of one that is found only the last step may be missing.
    """
    if folder.exists():
        with suppress(PermissionError):  # a parent that we may not open is not one that we made a folder in
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
