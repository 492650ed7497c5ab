"""The spool: image bytes on local disk while the image store is unavailable, one file for each attempt.

A file is named after the attempt and the SHA-256 of its content, so the folder can be read without the database. All
functions block: call them in a thread.
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

_SPARE = 64 * 1024 * 1024  # bytes to leave free: the database in the same folder needs space for the recovery


class Spool:
    """The folder `aside` in DATA_DIR. Processes with the same DATA_DIR are one instance."""

    def __init__(self, data_dir: Path, spare: int = _SPARE) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "aside"
        self._spare = spare

    def instance(self, now: datetime) -> str:
        """Return the id of this DATA_DIR in the database; created at the first call. Raises OSError."""
        path = self._data_dir / "instance_id"
        if not path.exists():
            with NamedTemporaryFile("w", dir=self._data_dir, prefix="instance_id.") as new:
                new.write(ids.new_id("host", now))
                new.flush()
                os.fsync(new.fileno())
                with suppress(FileExistsError):  # another process created it first; a link does not replace its file
                    os.link(new.name, path)
            sync_folder(self._data_dir)
        return path.read_text()

    def new_file(self) -> IO[bytes]:
        """Open an unnamed file, which vanishes when it is closed unless `put` names it. Raises OSError."""
        try:
            return os.fdopen(os.open(self._data_dir, os.O_RDWR | os.O_TMPFILE, 0o600), "w+b")
        except (AttributeError, OSError):  # not supported by this operating system or file system
            return TemporaryFile(dir=self._data_dir)

    def put(self, attempt_id: str, file: IO[bytes], sha256: str) -> None:
        """Store the file durably until `delete`. Raises OSError, also if too little disk space would remain."""
        path = self._folder / f"{attempt_id}.{sha256}"
        if not path.exists():
            if shutil.disk_usage(self._data_dir).free < self._spare:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            make_folder(self._folder)
            try:
                _link(file, path)
            except OSError:
                write(path, file)
            os.fsync(file.fileno())
        sync_folder(self._folder)

    def open(self, attempt_id: str) -> IO[bytes] | None:
        """Open the spooled bytes of an attempt; None without any. Delete a file whose content contradicts its name."""
        for path in self._files(attempt_id):
            with suppress(OSError):  # unreadable, or deleted by another process
                if _digest(path) == path.suffix[1:]:
                    return path.open("rb")
                path.unlink()
        return None

    def delete(self, attempt_id: str) -> None:
        """Delete the spooled bytes of an attempt. Raises OSError."""
        for path in self._folder.glob(f"{attempt_id}.*"):
            path.unlink(missing_ok=True)

    def attempts(self) -> list[str]:
        """Return the ids of the attempts with spooled bytes, oldest first."""
        return sorted({path.name.partition(".")[0] for path in self._folder.glob("*.*")})

    def _files(self, attempt_id: str) -> Generator[Path]:
        return (path for path in self._folder.glob(f"{attempt_id}.*") if path.suffix != ".part")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def _link(file: IO[bytes], path: Path) -> None:
    """Give an unnamed file a name. A copy would need space that an almost full disk may not have."""
    file.flush()
    os.fsync(file.fileno())
    open_files = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(str(file.fileno()), path, src_dir_fd=open_files, follow_symlinks=True)
    finally:
        os.close(open_files)
