"""What a body may have been before a proxy, a framework or an editor changed it. Pure."""

import base64
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import Any
from urllib.parse import unquote_to_bytes

_BOM = b"\xef\xbb\xbf"
_MAX = 1024 * 1024
_GZIP = 31  # window bits of zlib for gzip's header
_SEPARATORS = {
    "without spaces": (",", ":"),
    "with spaces after commas and colons": (", ", ": "),
    "with spaces after commas": (", ", ":"),
}


def of(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield possible originals of a body, each with what was done to it."""
    yield from _line_ends(body)
    yield from _encodings(body)
    yield from _json_forms(body)


def _line_ends(body: bytes) -> Iterator[tuple[str, bytes]]:
    stripped = body.rstrip(b"\r\n")
    if stripped != body:
        yield "a line end was added at its end, as editors do when they save a file", stripped
    else:
        yield "the line end at its end was removed", body + b"\n"
        yield "the line end at its end was removed", body + b"\r\n"
    if body.strip() not in {body, stripped}:
        yield "spaces were added around it", body.strip()
    if b"\r\n" in body:
        yield "its line ends were changed from LF to CRLF", body.replace(b"\r\n", b"\n")
    elif b"\n" in body:
        yield "its line ends were changed from CRLF to LF", body.replace(b"\n", b"\r\n")


def _encodings(body: bytes) -> Iterator[tuple[str, bytes]]:
    if body.startswith(_BOM):
        yield "a byte order mark was put in front of it", body.removeprefix(_BOM)
    if body.startswith(b"\x1f\x8b"):
        with suppress(zlib.error):
            yield "it is still compressed with gzip", zlib.decompressobj(_GZIP).decompress(body, _MAX)
    with suppress(ValueError):
        yield "it was encoded with base64, as some serverless gateways do", base64.b64decode(body, validate=True)
    if b"%" in body:
        yield "it was percent-encoded", unquote_to_bytes(body.replace(b"+", b" "))
    with suppress(UnicodeError):
        yield "it was read as Latin-1 and written as UTF-8", body.decode().encode("latin-1")
    if not body.isascii():
        yield "it was read as UTF-8 and written as Latin-1", body.decode("latin-1").encode()


def _json_forms(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the same JSON as other libraries write it: a proxy or a framework parsed it and wrote it again."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    for (spaces, separators), ascii_only, is_sorted in product(_SEPARATORS.items(), (True, False), (False, True)):
        text = json.dumps(value, separators=separators, ensure_ascii=ascii_only, sort_keys=is_sorted)
        what = f"its JSON was parsed and written again; it came {spaces}"
        what += (
            f"{', sorted by name' if is_sorted else ''}{', with escapes' if ascii_only and not body.isascii() else ''}"
        )
        for form in (text, text.replace("/", "\\/"), text + "\n"):
            if (encoded := form.encode("utf-8", "surrogatepass")) != body:
                yield what, encoded
    for indent in (2, 4):
        yield f"its JSON was written again; it came indented by {indent}", json.dumps(value, indent=indent).encode()
