"""HTTP/1.1 as bytes: prepared requests, and the status and length of answers. Pure."""

from collections.abc import Mapping

_STATUS = slice(9, 12)  # in "HTTP/1.1 200 OK"
_HEAD_ENDS = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class Unreadable(Exception):
    """An answer without Content-Length, whose end this parser cannot find."""


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return the bytes of a request; host and content-length are added to the headers."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}"]
    return "\r\n".join(lines).encode() + _HEAD_ENDS + body


def answer(data: bytes) -> tuple[int, int] | None:
    """Return status and total length in bytes of the answer at the start of the data; None if its head is incomplete.

    Raises Unreadable for an answer without Content-Length.
    """
    head = data.find(_HEAD_ENDS)
    if head < 0:
        return None
    at = data.find(_LENGTH, 0, head)
    if at < 0:
        at = data[:head].lower().find(_LENGTH)
    if at < 0:
        raise Unreadable(data[:head].decode("latin-1"))
    at += len(_LENGTH)
    end = data.find(b"\r\n", at)
    return int(data[_STATUS]), head + len(_HEAD_ENDS) + int(data[at:end])
