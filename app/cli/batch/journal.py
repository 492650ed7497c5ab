"""The journal of a batch: a file beside the input that remembers what was sent and what came of it.

One JSON object a line, added and synced before the next step begins, so that a stop at any point loses nothing. It has
no prompts: rows are known by their keys.
"""

import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

_KEY_LIFE = timedelta(hours=23)  # the service remembers an Idempotency-Key for 24 hours


class InUse(Exception):
    """Another command writes this journal, or it cannot be written; the message says which."""


@dataclass(slots=True)
class Known:
    """What the journal knows of a row."""

    sending_at: datetime | None = None
    task_id: str | None = None
    status: str | None = None  # of the final task
    code: str | None = None  # of its failure
    cost: float | None = None
    file: str | None = None
    sha256: str | None = None

    def may_be_lost(self, now: datetime) -> bool:
        """Whether it was sent so long ago, without an answer, that sending it again could make a second task."""
        return self.task_id is None and self.sending_at is not None and now - self.sending_at > _KEY_LIFE


class Journal:
    """An open journal. Values are remembered by key."""

    def __init__(self, file: TextIO, known: dict[str, Known]) -> None:
        self._file = file
        self._known = known

    def of(self, key: str) -> Known:
        return self._known.setdefault(key, Known())

    def add(self, key: str, **values: Any) -> None:
        """Remember values of a row, durably. Raises OSError."""
        shown = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}
        self._file.write(json.dumps({"key": key, **shown}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        _apply(self.of(key), values)


@contextmanager
def opened(path: Path) -> Generator[Journal]:
    """Open the journal, which only one command may use at a time. Raises InUse."""
    try:
        file = path.open("a+")
    except OSError as error:
        raise InUse(f"the journal {path} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"another command works on this file: {path} is locked") from None
        file.seek(0)
        text = file.read()
        if text and not text.endswith("\n"):
            file.write("\n")  # the last line was cut off by a stop
        yield Journal(file, _read(text))


def _read(text: str) -> dict[str, Known]:
    known: dict[str, Known] = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            values = {name: value for name, value in entry.items() if name != "key"}
            if "sending_at" in values:
                values["sending_at"] = datetime.fromisoformat(values["sending_at"])
            _apply(known.setdefault(str(entry["key"]), Known()), values)
        except (ValueError, KeyError, AttributeError, TypeError):
            continue  # a line that was cut off
    return known


def _apply(known: Known, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if name in Known.__slots__:
            setattr(known, name, value)
