"""Content credentials are found in files of each format, and nothing else is taken for them."""

import io
import struct

import pytest

from app.images import content_credentials
from tests.pictures import chunk, picture, with_chunks


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


# A superbox whose description box has the type and the label of a manifest store (C2PA specification, 11.1.4.2).
TYPE = bytes.fromhex("6332706100110010800000AA00389B71")
MANIFEST = box(b"jumb", box(b"jumd", TYPE + b"\x03c2pa\0") + box(b"cbor", b"\xa0" * 9000))
OTHER = box(b"jumb", box(b"jumd", b"json" + TYPE[4:] + b"\x03a.label\0") + box(b"json", b"{}"))


def jpeg(*segments: bytes) -> bytes:
    plain = picture(form="JPEG")
    marked = b"".join(b"\xff\xeb" + struct.pack(">H", 2 + len(content)) + content for content in segments)
    return plain[:2] + marked + plain[2:]


def jumbf(content: bytes) -> bytes:
    """The content of an APP11 segment: identifier, instance, sequence number and box."""
    return b"JP" + struct.pack(">HI", 1, 1) + content


def webp(kind: bytes, content: bytes) -> bytes:
    plain = picture(form="WEBP")
    added = kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(plain) - 8 + len(added)) + plain[8:] + added


CREDENTIALS = {
    "jpeg": jpeg(jumbf(MANIFEST)),
    "jpeg after another box": jpeg(jumbf(OTHER), jumbf(MANIFEST)),
    "png": with_chunks(picture(), chunk(b"caBX", MANIFEST)),
    "webp": webp(b"C2PA", MANIFEST),
}
NONE = {
    "jpeg": picture(form="JPEG"),
    "jpeg with another box": jpeg(jumbf(OTHER)),
    "jpeg with other application data": jpeg(b"HDR_RI c2pa jumb"),
    "jpeg with the words in a comment": picture(form="JPEG", comment=b"JP jumb c2pa"),
    "png": picture(),
    "png with the words in a text": with_chunks(picture(), chunk(b"tEXt", b"caBX\0caBX")),
    "webp": picture(form="WEBP"),
    "webp with another chunk": webp(b"XMP ", b"C2PA"),
    "text": b"c2pa jumb",
    "nothing": b"",
    "a segment without a length": b"\xff\xd8\xff\xeb",
    "a chunk past the end": b"\x89PNG\r\n\x1a\n" + b"\xff" * 16,
}


@pytest.mark.parametrize("data", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_manifest_is_found(data: bytes) -> None:
    assert content_credentials.are_present(io.BytesIO(data))


@pytest.mark.parametrize("data", NONE.values(), ids=NONE)
def test_anything_else_is_no_manifest(data: bytes) -> None:
    assert not content_credentials.are_present(io.BytesIO(data))


@pytest.mark.parametrize("data", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_file_that_is_cut_off_anywhere_raises_nothing(data: bytes) -> None:
    for end in range(0, min(len(data), 400), 3):
        content_credentials.are_present(io.BytesIO(data[:end]))
