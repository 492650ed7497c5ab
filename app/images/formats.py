"""Name the format of a file by its first bytes, so that a refusal can say what the file is."""

import re

HEAD = 1024  # bytes that are needed

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"%PDF-", "PDF"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
)
# A BMP file: its size, four reserved bytes and the offset of its pixels, which is below 64 kB.
_BMP = re.compile(rb"BM.{4}\0{4}..\0\0", re.DOTALL)
_SVG_STARTS = (b"<svg", b"<?xml", b"<!--", b"<!doctype svg")
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})


def name_of(head: bytes) -> str | None:
    """Return the name of an image format such as "HEIC", or None for bytes of another kind."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if _BMP.match(head):
        return "BMP"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "SVG" if text.startswith(_SVG_STARTS) and b"<svg" in text else None


def _iso_media(head: bytes) -> str | None:
    """HEIC and AVIF share a container: the major brand and the compatible brands tell them apart."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None
