"""Whether an image file carries content credentials: a C2PA manifest, with which a provider states how it was made.

The manifest is found and not verified. Fluxhook stores results as they came, so a manifest that is there is untouched.
"""

import os
import struct
from typing import IO

_MAX_PARTS = 100_000  # segments or chunks; a file of 64 MB in chunks of 8 kB has 8,000
_LABELS = 4096  # bytes of a box; its first descriptions name what it is
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_APP11, _START_OF_SCAN, _END_OF_IMAGE = 0xEB, 0xDA, 0xD9
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_FILL = 0xFF


def are_present(file: IO[bytes]) -> bool:
    """Look for a C2PA manifest in a JPEG, PNG or WebP file. Reads only the headers of its parts; never raises."""
    file.seek(0)
    head = file.read(12)
    try:
        if head.startswith(_PNG):
            return _in_chunks(file, len(_PNG), ">", b"caBX")
        if head.startswith(b"RIFF") and head[8:] == b"WEBP":
            return _in_chunks(file, 12, "<", b"C2PA")
        return head.startswith(_JPEG) and _in_segments(file)
    except (struct.error, OSError, ValueError):  # the file is cut off or damaged
        return False


def _in_segments(file: IO[bytes]) -> bool:
    """Look into the APP11 segments of a JPEG, which hold JUMBF boxes (ISO 19566-5), up to the start of the scan."""
    file.seek(len(_JPEG))
    for _ in range(_MAX_PARTS):
        prefix, marker = struct.unpack(">BB", file.read(2))
        if prefix != _FILL or marker in {_START_OF_SCAN, _END_OF_IMAGE}:
            return False
        if marker == _FILL:  # a fill byte: the marker follows
            file.seek(-1, os.SEEK_CUR)
            continue
        if marker in _STANDALONE:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        start = file.tell()
        if marker == _APP11:
            content = file.read(min(length - 2, _LABELS))
            if content.startswith(b"JP") and b"jumb" in content and b"c2pa" in content:
                return True
        file.seek(start + length - 2)
    return False


def _in_chunks(file: IO[bytes], at: int, order: str, wanted: bytes) -> bool:
    """Look for a chunk of a PNG, whose numbers are big-endian (">"), or of a WebP ("<")."""
    for _ in range(_MAX_PARTS):
        file.seek(at)
        head = file.read(8)
        kind, length = (head[4:], head[:4]) if order == ">" else (head[:4], head[4:])
        (size,) = struct.unpack(f"{order}I", length)
        if kind == wanted:
            return True
        at += 8 + size + (4 if order == ">" else size % 2)
    return False
