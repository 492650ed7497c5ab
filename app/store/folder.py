"""The store in a folder: written aside, synced, renamed, and the folder synced; so a file is whole or absent."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from app.errors import Unavailable
from app.store.contract import Missing

_PIECE = 256 * 1024


class FolderStore:
    """Everything lies below `root`; what is being written has a name that ends in `.part`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"the image store cannot be made: {error.strerror}") from error

    async def put(self, key: str, source: IO[bytes]) -> None:
        try:
            await asyncio.to_thread(_write, self._root / key, source)
        except OSError as error:
            raise Unavailable(f"the image store cannot be written: {error.strerror}") from error

    async def size(self, key: str) -> int:
        try:
            return (await asyncio.to_thread((self._root / key).stat)).st_size
        except FileNotFoundError as error:
            raise Missing(key) from error
        except OSError as error:
            raise Unavailable(f"the image store cannot be read: {error.strerror}") from error

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes]:
        try:
            file = await asyncio.to_thread((self._root / key).open, "rb")
        except FileNotFoundError as error:
            raise Missing(key) from error
        except OSError as error:
            raise Unavailable(f"the image store cannot be read: {error.strerror}") from error
        with file:
            file.seek(start)
            while start < end:
                piece = await asyncio.to_thread(file.read, min(_PIECE, end - start))
                if not piece:
                    return
                start += len(piece)
                yield piece

    async def check(self) -> None:
        try:
            await asyncio.to_thread(_try_out, self._root)
        except OSError as error:
            raise Unavailable(f"the image store cannot be used: {error.strerror}") from error


def _write(path: Path, source: IO[bytes]) -> None:
    source.seek(0)
    if path.exists():
        return
    _make_folder(path.parent)
    with NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=".part", delete=False) as part:
        try:
            shutil.copyfileobj(source, part, _PIECE)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).rename(path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def _try_out(root: Path) -> None:
    """Under a name of its own, because process ids repeat when containers share a folder."""
    _make_folder(root)
    with NamedTemporaryFile(dir=root, prefix="check.", suffix=".part") as part:
        part.write(b"fluxhook")
        part.flush()
        os.fsync(part.fileno())
        part.seek(0)
        part.read()


def _make_folder(folder: Path) -> None:
    """Make a folder and sync the one it is listed in: else a crash may forget the folder with all in it."""
    if folder.exists():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
