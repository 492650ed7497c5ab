"""An image that is written as text: base64, or a `data:` URL. Decoded piece by piece, so that none is held whole."""

import base64
from typing import IO

from app.errors import InvalidRequest

_LONGEST_HEAD = 1024  # characters of a data URL before its comma


class Inline:
    """Writes the bytes of a text into a file: `feed` it in pieces of any length, then `end` it.

    Line breaks are allowed, other characters are not. Both raise InvalidRequest naming the field, OSError for the file.
    """

    def __init__(self, field: str, file: IO[bytes]) -> None:
        self._field = field
        self._file = file
        self._head: str | None = ""  # what came, until it is known to be base64
        self._left = ""  # of four characters that belong together
        self._padded = False

    def feed(self, text: str) -> None:
        text = "".join(text.split())
        if self._head is not None:
            self._head += text
            text = self._past_head()
        text = self._left + text
        whole = len(text) - len(text) % 4
        self._left = text[whole:]
        self._write(text[:whole])

    def end(self) -> None:
        if self._head is not None:
            if _is_data_url(self._head):
                raise self._refused("the data URL is not base64", "not a base64 data URL")
            self._left = self._head
        self._write(self._left)

    def _past_head(self) -> str:
        """What of the head is base64, once that can be told."""
        head = self._head or ""
        if len(head) < len("data:") or (_is_data_url(head) and "," not in head and len(head) < _LONGEST_HEAD):
            return ""
        self._head = None
        if not _is_data_url(head):
            return head
        kind, comma, text = head.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise self._refused("the data URL is not base64", "not a base64 data URL")
        return text

    def _write(self, text: str) -> None:
        if not text:
            return
        try:
            decoded = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise self._refused("not valid base64") from error
        if self._padded:
            raise self._refused("not valid base64")
        self._padded = text.endswith("=")
        self._file.write(decoded)

    def _refused(self, detail: str, reason: str = "") -> InvalidRequest:
        return InvalidRequest(f"{self._field}: {detail}", {self._field: reason or detail})


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"
