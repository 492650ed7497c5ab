"""Formats by their first bytes: files from Pillow, and the headers of formats that it cannot write."""

from io import BytesIO

import pytest
from PIL import Image

from app.images.formats import HEAD, name_of

IMAGE = Image.new("RGB", (60, 40))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "GIF", "TIFF", "BMP", "ICO", "PDF", "AVIF"])
def test_a_file_of_pillow_is_named(form: str) -> None:
    out = BytesIO()
    IMAGE.save(out, form)

    assert name_of(out.getvalue()[:HEAD]) == form


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x24ftypheix\0\0\0\0mif1heixmiaf", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x18ftypavis\0\0\0\0msf1avis", "AVIF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"8BPS\0\x01", "PSD"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- by hand --><svg/>", "SVG"),
        (b"\n<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'><SVG/>", "SVG"),
    ],
    ids=[
        *("heic", "heix", "heic as mif1", "avif as mif1", "avif sequence", "big-endian TIFF", "JPEG XL"),
        *("JPEG XL container", "JPEG 2000", "PSD", "SVG", "SVG of XML", "SVG with a doctype"),
    ],
)
def test_another_format_is_named(head: bytes, name: str) -> None:
    assert name_of(head) == name


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0" * 100,
        b"<!doctype html><title>502</title><svg/>",
        b"BMW is no bitmap",
        b'{"error": "expired"}',
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42",
        b"\0\0\0\x18ftyp",
        b"<?xml version='1.0'?><Error/>",
    ],
    ids=["nothing", "zeros", "html", "text", "json", "film", "no brand", "xml"],
)
def test_what_is_no_image_has_no_name(head: bytes) -> None:
    assert name_of(head) is None
