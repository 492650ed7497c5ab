"""Bytes that the store could not take, on this machine's own disk until it can: one file for each attempt.

A file is named by the attempt and the digest of what is in it, so the folder explains itself without the database.
Everything here blocks: call it from a thread.
"""

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO

from app import ids
from app.store.contract import sha256_of
from app.store.folder import make_folder, sync_folder, write

_SPARE = 64 * 1024 * 1024  # bytes left to the database in the same folder: a full disk could not even record the mend


class Spool:
    """The folder `aside` in DATA_DIR. Whoever has the same DATA_DIR is the same instance."""

    def __init__(self, data_dir: Path, spare: int = _SPARE) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "aside"
        self._spare = spare

    def instance(self, now: datetime) -> str:
        """What this DATA_DIR is called in the records; made when first asked for. Raises OSError."""
        path = self._data_dir / "instance_id"
        if not path.exists():
            with NamedTemporaryFile("w", dir=self._data_dir, prefix="instance_id.") as new:
                new.write(ids.new_id("host", now))
                new.flush()
                os.fsync(new.fileno())
                with suppress(FileExistsError):  # another process was quicker, and a link leaves its file in place
                    os.link(new.name, path)
            sync_folder(self._data_dir)
        return path.read_text()

    def blank(self) -> IO[bytes]:
        """A file without a name, gone with the process unless `keep` gives it one. Raises OSError."""
        try:
            return os.fdopen(os.open(self._data_dir, os.O_RDWR | os.O_TMPFILE, 0o600), "w+b")
        except (AttributeError, OSError):  # not every system and not every file system has such files
            return TemporaryFile(dir=self._data_dir)

    def keep(self, attempt: str, file: IO[bytes], sha256: str) -> None:
        """Have these bytes on disk until they are discarded. Raises OSError, also where little room is left."""
        path = self._folder / f"{attempt}.{sha256}"
        if not path.exists():
            if shutil.disk_usage(self._data_dir).free < self._spare:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            make_folder(self._folder)
            try:
                _give_name(file, path)
            except OSError:
                write(path, file)
            os.fsync(file.fileno())
        sync_folder(self._folder)

    def open(self, attempt: str) -> IO[bytes] | None:
        """The bytes kept of this attempt; what its name does not fit is removed."""
        for path in self._files(attempt):
            with suppress(OSError):  # unreadable, or removed by another process: none to be had here
                if _digest(path) == path.suffix[1:]:
                    return path.open("rb")
                path.unlink()
        return None

    def discard(self, attempt: str) -> None:
        """Remove what is kept of this attempt. Raises OSError."""
        for path in self._folder.glob(f"{attempt}.*"):
            path.unlink(missing_ok=True)

    def attempts(self) -> list[str]:
        """The attempts of which something is kept, the earliest first."""
        return sorted({path.name.partition(".")[0] for path in self._folder.glob("*.*")})

    def _files(self, attempt: str) -> Generator[Path]:
        return (path for path in self._folder.glob(f"{attempt}.*") if path.suffix != ".part")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def _give_name(file: IO[bytes], path: Path) -> None:
    """Without a second copy, for which a full disk would have no room."""
    file.flush()
    os.fsync(file.fileno())
    open_files = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(str(file.fileno()), path, src_dir_fd=open_files, follow_symlinks=True)
    finally:
        os.close(open_files)
