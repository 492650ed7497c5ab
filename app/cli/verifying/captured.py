"""A captured callback, read from files with its headers and body, or from a curl command."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from app.security.diagnosis import Received

_REQUEST_LINE = ("POST ", "HTTP/")
_ATTEMPT_PATH = 3  # parts: callbacks, the attempt's id, the token


class NotReadable(ValueError):
    """The message says what cannot be read, and what to give instead."""


@dataclass(frozen=True, slots=True)
class Captured(Received):
    """The request. `path`: that of its URL, if it is known."""

    path: str | None = None

    @property
    def address(self) -> tuple[str, str] | None:
        """The attempt's id and the token in the path, if it is that of a callback."""
        parts = (self.path or "").strip("/").split("/")[-_ATTEMPT_PATH:]
        return (parts[1], parts[2]) if len(parts) == _ATTEMPT_PATH and parts[0] == "callbacks" else None


def from_files(headers: str, body: bytes, url: str | None) -> Captured:
    """Read headers as lines of `Name: value` or as JSON, an object or a list of pairs. Raises NotReadable."""
    path = None if url is None else path_of(url)
    if headers.lstrip()[:1] in {"{", "["}:
        return Captured(tuple(_json_headers(headers)), body, path)
    found: list[tuple[bytes, bytes]] = []
    for number, line in enumerate(headers.splitlines(), 1):
        if not line.strip():
            continue
        if number == 1 and line.startswith(_REQUEST_LINE):
            path = path or (line.split()[1] if line.startswith("POST ") and len(line.split()) > 1 else None)
            continue
        found.append(_header(line, number))
    return Captured(tuple(found), body, path)


def _json_headers(text: str) -> Iterator[tuple[bytes, bytes]]:
    try:
        value = json.loads(text)
        pairs = value.items() if isinstance(value, dict) else [(name, content) for name, content in value]
    except (ValueError, TypeError):
        raise NotReadable("the headers are neither lines of `Name: value` nor a JSON object or list of pairs") from None
    for name, content in pairs:
        for one in content if isinstance(content, list) else [content]:
            yield str(name).encode(), str(one).encode()


def _header(line: str, number: int) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or " " in name.strip():
        raise NotReadable(f"line {number} of the headers is not `Name: value`")
    return name.strip().encode(), value.strip().encode()


def path_of(url: str) -> str:
    """Return the path of a URL, or of a path. Raises NotReadable."""
    try:
        return urlsplit(url).path
    except ValueError:
        raise NotReadable("the URL of the callback is not a URL") from None


_WITH_VALUE = frozenset(
    (
        *("-X", "--request", "-A", "--user-agent", "-b", "--cookie", "-e", "--referer", "-u", "--user"),
        *("-m", "--max-time", "--connect-timeout", "-o", "--output", "--cacert", "--resolve", "-x", "--proxy"),
    )
)
_DATA = frozenset({"-d", "--data", "--data-ascii", "--data-raw", "--data-binary", "--json"})


def from_curl(command: str, read: Callable[[Path], bytes] = Path.read_bytes) -> Captured:
    """Read a curl command as shells and browsers write it. `read` reads the files that it names. Raises NotReadable."""
    words = _words(command)
    headers: list[tuple[bytes, bytes]] = []
    pieces: list[bytes] = []
    url: str | None = None
    rest = iter(words[1:])
    for word in rest:
        option, value = _split_option(word)
        if option in {"-H", "--header"}:
            headers.append(_header(_value(option, value, rest), len(headers) + 1))
        elif option in _DATA:
            pieces.append(_data(option, _value(option, value, rest), read))
        elif option == "--url":
            url = _value(option, value, rest)
        elif option in _WITH_VALUE:
            _value(option, value, rest)
        elif not word.startswith("-"):
            url = word
    return Captured(tuple(headers), b"&".join(pieces), None if url is None else path_of(url))


def _words(command: str) -> Sequence[str]:
    text = command.replace("\\\r\n", " ").replace("\\\n", " ").strip()
    try:
        words = shlex.split(_without_ansi_quotes(text))
    except ValueError as error:
        raise NotReadable(f"the curl command cannot be read: {error}") from None
    if not words or Path(words[0]).name != "curl":
        raise NotReadable("the text does not begin with curl: paste the whole command")
    return words


def _without_ansi_quotes(text: str) -> str:
    """Replace `$'...'`, in which a browser writes special characters, by plain quotes around the text that it means."""
    out, at = "", 0
    while (start := text.find("$'", at)) >= 0:
        end = start + 2
        while end < len(text) and text[end] != "'":
            end += 2 if text[end] == "\\" else 1
        raw = text[start + 2 : end]
        meant = raw.encode("latin-1", "backslashreplace").decode("unicode_escape")
        out += text[at:start] + shlex.quote(meant)
        at = end + 1
    return out + text[at:]


def _split_option(word: str) -> tuple[str, str | None]:
    """Return an option and its value, if both are one word: `--data=x` or `-Hname: value`."""
    if word.startswith("--") and "=" in word:
        name, _, value = word.partition("=")
        return name, value
    if word.startswith(("-H", "-d", "-X")) and len(word) > 2:  # noqa: PLR2004 - the letter and a value
        return word[:2], word[2:]
    return word, None


def _value(option: str, value: str | None, rest: Iterator[str]) -> str:
    found = next(rest, None) if value is None else value
    if found is None:
        raise NotReadable(f"the curl command ends after {option}")
    return found


def _data(option: str, value: str, read: Callable[[Path], bytes]) -> bytes:
    if not value.startswith("@") or option == "--data-raw":
        return value.encode("utf-8", "surrogateescape")
    try:
        content = read(Path(value[1:]))
    except OSError as error:
        raise NotReadable(f"{value[1:]}, which the curl command names, cannot be read: {error.strerror}") from None
    # As curl does for a file, except with --data-binary and --json.
    return content if option in {"--data-binary", "--json"} else content.replace(b"\r", b"").replace(b"\n", b"")
