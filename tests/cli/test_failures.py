"""A command that fails ends with one sentence that says what to do next, and never with a traceback."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import commands
from tests.certificates import Authority

ROOT = Path(__file__).parents[2]
HTML = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"
LIST = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]"
OBJECT = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
MOVED = b"HTTP/1.1 301 Moved\r\nlocation: https://other.example/v1?key=secret\r\ncontent-length: 0\r\n\r\n"
BUSY_BODY = b'{"detail": "busy"}'
BUSY = b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: %d\r\n\r\n%b" % (len(BUSY_BODY), BUSY_BODY)


@asynccontextmanager
async def answering(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """Yield the host and port of a server that gives every request this answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def tasks(*arguments: str, **env: str) -> Result:
    settings = {"FLUXHOOK_API_KEY": "k", "FLUXHOOK_DATA_DIR": "/nowhere", **env}
    return await asyncio.to_thread(CliRunner().invoke, commands("tasks"), ["tasks", *arguments], env=settings)


@pytest.mark.parametrize(
    ("answer", "scheme", "sentence"),
    [
        (HTML, "http", "is not one of Fluxhook (HTTP 200, text/html): name the URL"),
        (LIST, "http", "is not one of Fluxhook (HTTP 200, application/json): name the URL"),
        (OBJECT, "http", "has no list of tasks, as those of Fluxhook have: name the URL"),
        (GATEWAY, "http", "answers with HTTP 502 and not as Fluxhook does: name the URL"),
        (MOVED, "http", "redirects to https://other.example: name the URL"),
        (BUSY, "http", "busy (HTTP 503): repeat the command in 7 s"),
        (b"\0\0\0\r\n\r\n", "http", "in HTTP: check the URL, which may have to begin with https://"),
        (HTML, "https", "does not answer with TLS: check the URL, which may have to begin with http://"),
    ],
    ids=["HTML", "a list", "an object", "a gateway", "a redirect", "busy", "no HTTP", "no TLS"],
)
async def test_an_unusable_answer_is_explained(answer: bytes, scheme: str, sentence: str) -> None:
    async with answering(answer) as address:
        done = await tasks(FLUXHOOK_URL=f"{scheme}://{address}")

    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


async def test_a_certificate_that_is_not_trusted_is_named_and_its_authority_can_be_given(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with answering(OBJECT, authority.server("127.0.0.1")) as address:
        refused = await tasks("--url", f"https://{address}")
        trusted = await tasks("--url", f"https://{address}", FLUXHOOK_CA_FILE=str(authority.file))

    assert "is not trusted: " in refused.stderr
    assert "FLUXHOOK_CA_FILE" in refused.stderr
    assert "has no list of tasks" in trusted.stderr


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"FLUXHOOK_URL": "localhost:8080"}, "localhost:8080 is not the URL of a service"),
        ({"FLUXHOOK_URL": "http://h:99999"}, "http://h:99999 is not the URL of a service"),
        ({"FLUXHOOK_URL": "http://me:word@h"}, "fluxhook: the URL is not the URL of a service"),
        ({"FLUXHOOK_API_KEY": "schlüssel"}, "the API key must be printable ASCII"),
        (
            {"FLUXHOOK_API_KEY": "", "FLUXHOOK_API_KEY_FILE": "/nowhere"},
            "FLUXHOOK_API_KEY_FILE: /nowhere cannot be read",
        ),
        ({"FLUXHOOK_API_KEY": ""}, "no API key found: give --key, or set FLUXHOOK_API_KEY"),
        ({"FLUXHOOK_URL": "http://127.0.0.1:9"}, "no response from http://127.0.0.1:9: start the service with"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
async def test_a_wrong_url_or_key_is_explained(env: dict[str, str], sentence: str) -> None:
    done = await tasks(**env)

    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert sentence in done.stderr
    assert "word" not in done.stderr


def fluxhook(*arguments: str, stdout: int, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env={**os.environ, "FLUXHOOK_API_KEY": "k", **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def test_a_reader_that_goes_away_and_a_full_disk_end_a_command_without_a_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    unread = fluxhook("models", stdout=write)
    os.close(write)
    with Path("/dev/full").open("wb") as full:
        unwritten = fluxhook("models", stdout=full.fileno())

    assert unread.communicate(timeout=60)[1] == b""
    assert unread.returncode == 1
    assert unwritten.communicate(timeout=60)[1] == b"fluxhook: No space left on device: the output\n"
    assert unwritten.returncode == 1


def test_a_terminal_that_is_not_unicode_gets_escapes() -> None:
    done = fluxhook("models", "€", stdout=subprocess.PIPE, PYTHONIOENCODING="latin-1")

    assert done.communicate(timeout=60)[1] == b"fluxhook: there is no model \\u20ac: `fluxhook models` lists them\n"


@pytest.fixture
def interruptible() -> Generator[None]:
    """Child processes do not inherit that Ctrl-C is ignored, as in a script's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _interrupted(process: subprocess.Popen[bytes]) -> bytes:
    """Press Ctrl-C, again if it had no effect: Python drops what is raised while it frees an object. Return stderr."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=12)[1]
    process.kill()
    return process.communicate()[1]


@pytest.mark.usefixtures("interruptible")
async def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    asked = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        waiting = fluxhook("tasks", "--url", url, stdout=subprocess.DEVNULL)
        await asyncio.wait_for(asked.wait(), 60)
        stderr = await asyncio.to_thread(_interrupted, waiting)

    assert (waiting.returncode, stderr) == (130, b"")
