"""Take long texts out of a JSON body before it is parsed: the parser lets no other thread run while it reads a text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app import ids

LONG = 16 * 1024  # bytes
_STEP = LONG // 2  # every text of that length covers a piece of this length whose position is a multiple of it
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


@dataclass(frozen=True, slots=True)
class Shortened:
    """A JSON body with a mark in place of each long text, and these texts by mark."""

    body: bytes
    texts: dict[str, memoryview]
    _marks: re.Pattern[bytes]

    def restored(self, part: bytes) -> bytes:
        """Return JSON that has some of the marks, with the texts that they stand for."""
        return self._marks.sub(lambda mark: bytes(self.texts[mark[0].decode()]), part)


def shorten(body: bytes) -> Shortened:
    """Replace long texts that may be base64 by marks. Valid JSON stays valid, and invalid JSON stays invalid.

    A text between two quotes that starts with a character of base64 is inside a string: after a string, JSON goes on
    with a comma, a colon or a bracket. It has no backslash, so it stands for itself, and the quote after it ends it.
    """
    pieces: list[bytes | memoryview] = []
    texts: dict[str, memoryview] = {}
    secret, view, at = ids.nonce().hex(), memoryview(body), 0  # a client cannot send a mark of its own
    for start, end in _between_quotes(body):
        if body[start] in _BASE64 and body.find(b"\\", start, end) < 0:
            mark = f"{secret}.{len(texts)}."
            texts[mark] = view[start:end]
            pieces += (view[at:start], mark.encode())
            at = end
    return Shortened(b"".join((*pieces, view[at:])), texts, re.compile(rb"%b\.\d+\." % secret.encode()))


def _between_quotes(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each long range without a quote that is between two quotes."""
    at = 0
    while at + _STEP <= len(body):
        if body.find(b'"', at, at + _STEP) >= 0:
            at += _STEP
            continue
        start, end = body.rfind(b'"', max(0, at - _STEP), at) + 1, body.find(b'"', at)
        if end < 0:
            return
        if start and end - start >= LONG:
            yield start, end
        at = end - end % _STEP + _STEP
