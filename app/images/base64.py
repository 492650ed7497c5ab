"""Decode images that are sent as base64 or as a `data:` URL, in chunks, so that no image is in memory as a whole."""

import base64
from typing import IO

from app.errors import InvalidRequest

_MAX_HEAD = 1024  # characters of a data URL before its comma


class Inline:
    """Decode text into a file: call `feed` with chunks of any length, then `end`.

    White space is ignored; other characters outside base64 are errors. Both methods raise InvalidRequest, which names
    the field, and OSError if the file cannot be written.
    """

    def __init__(self, field: str, file: IO[bytes]) -> None:
        self._field = field
        self._file = file
        self._head: str | None = ""  # the text so far; None once the start of the base64 is known
        self._rest = ""  # an incomplete group of four characters
        self._padded = False

    def feed(self, text: str) -> None:
        text = "".join(text.split())
        if self._head is not None:
            self._head += text
            text = self._skip_head()
        text = self._rest + text
        complete = len(text) - len(text) % 4
        self._rest = text[complete:]
        self._write(text[:complete])

    def end(self) -> None:
        if self._head is not None:
            if _is_data_url(self._head):
                raise self._error("the data URL is not base64", "not a base64 data URL")
            self._rest = self._head
        self._write(self._rest)

    def _skip_head(self) -> str:
        """Return the base64 that follows the head of a data URL; "" while it is not known where it starts."""
        head = self._head or ""
        if len(head) < len("data:") or (_is_data_url(head) and "," not in head and len(head) < _MAX_HEAD):
            return ""
        self._head = None
        if not _is_data_url(head):
            return head
        kind, comma, text = head.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise self._error("the data URL is not base64", "not a base64 data URL")
        return text

    def _write(self, text: str) -> None:
        if not text:
            return
        try:
            decoded = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise self._error("not valid base64") from error
        if self._padded:
            raise self._error("not valid base64")
        self._padded = text.endswith("=")
        self._file.write(decoded)

    def _error(self, detail: str, reason: str = "") -> InvalidRequest:
        return InvalidRequest(f"{self._field}: {detail}", {self._field: reason or detail})


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"
