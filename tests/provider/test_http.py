"""One exchange with a provider: bounded in size and time; every outcome is a ProviderResponse."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.provider import http as exchange
from app.provider.contract import ProviderResponse
from app.rules.task import Report, Said
from app.security.http_clients import provider_client

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOON, NEVER = timedelta(milliseconds=20), timedelta(minutes=5)
Handler = Callable[[httpx.Request], httpx.Response]


@dataclass
class Stream(httpx.AsyncByteStream):
    """A response body in chunks, which records how many were read and whether it was closed."""

    pieces: int
    piece: bytes = b"x" * 64 * 1024
    stalls: bool = False
    breaks: bool = False
    given: int = 0
    closed: bool = False
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.pieces):
            self.given += 1
            yield self.piece
        if self.stalls:
            self.stalled.set()
            await asyncio.Event().wait()
        if self.breaks:
            raise httpx.ReadError("the other side went away")

    async def aclose(self) -> None:
        self.closed = True


@asynccontextmanager
async def answering(handler: Handler) -> AsyncGenerator[httpx.AsyncClient]:
    async with provider_client(httpx.MockTransport(handler)) as http:
        yield http


async def ask(answer: httpx.Response | Exception, deadline: timedelta = NEVER) -> ProviderResponse:
    def handler(_: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with answering(handler) as http:
        return await exchange.send(http, http.build_request("GET", "https://api.bfl.ai/v1/credits"), deadline)


async def test_an_answer_is_returned_raw() -> None:
    answer = await ask(httpx.Response(418, content=b"\xff\0tea", headers={"content-type": "text/plain"}))

    assert (answer.http_status, answer.body, answer.headers) == (418, b"\xff\0tea", {"content-type": "text/plain"})


@pytest.mark.parametrize(
    "headers",
    [{"x-key": "a-key-of-the-operator"}, {"authorization": "Bearer a-key-of-the-operator"}],
    ids=["x-key", "bearer"],
)
async def test_the_key_is_redacted_in_an_answer(headers: dict[str, str]) -> None:
    answer = httpx.Response(401, json={"detail": "Invalid key: a-key-of-the-operator"})
    async with answering(lambda _: answer) as http:
        request = http.build_request("POST", "https://api.bfl.ai/v1/flux-kontext-pro", headers=headers)
        kept = await exchange.send(http, request, NEVER)

    assert json.loads(kept.body) == {"detail": "Invalid key: [key]"}


ESCAPED: dict[str, Callable[[str], str]] = {
    "every letter": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "one letter": lambda key: f"\\u{ord(key[0]):04X}{key[1:]}",
    "slashes": lambda key: key.replace("/", "\\/"),
    "json in json": lambda key: "".join(f"\\\\u{ord(letter):04x}" for letter in key),
}


@pytest.mark.parametrize("form", ESCAPED)
async def test_our_key_is_blanked_if_json_escapes_hide_it(form: str) -> None:
    key = "sk-operator/key_0123.ABC+xyz="
    text = f'{{"id": "task-1", "detail": "Invalid \\"key\\"\\n: {ESCAPED[form](key)}", "caf\\u00e9": "\\ud83d"}}'
    async with answering(lambda _: httpx.Response(401, text=text)) as http:
        request = http.build_request("POST", "https://api.bfl.ai/v1/flux-kontext-pro", headers={"x-key": key})
        kept = await exchange.send(http, request, NEVER)

    assert json.loads(kept.body) == {"id": "task-1", "detail": 'Invalid "key"\n: [key]', "caf\u00e9": "\ud83d"}


async def test_escapes_without_our_key_are_kept_as_they_are() -> None:
    body = rb'{"sample": "https:\/\/delivery.bfl.ai\/\u0061.png", "prompt": "caf\u00e9"}'
    async with answering(lambda _: httpx.Response(200, content=body)) as http:
        request = http.build_request("GET", "https://api.bfl.ai/v1/get_result", headers={"x-key": "a" * 40})

        assert (await exchange.send(http, request, NEVER)).body == body


async def test_a_short_key_of_the_twin_is_not_redacted() -> None:
    async with answering(lambda _: httpx.Response(200, json={"id": "demo-1"})) as http:
        request = http.build_request("GET", "https://api.bfl.ai/v1/credits", headers={"x-key": "demo"})
        kept = await exchange.send(http, request, NEVER)

    assert json.loads(kept.body) == {"id": "demo-1"}


async def test_headers_that_may_contain_secrets_are_not_stored() -> None:
    headers = {"set-cookie": "session=1", "retry-after": "3", "x-request-id": "r-1", "server": "x"}

    assert set((await ask(httpx.Response(200, headers=headers))).headers) == {"retry-after", "x-request-id"}


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    assert (await ask(httpx.Response(302, headers={"location": "https://evil.com/"}))).http_status == 302


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol]
)
async def test_a_request_that_was_not_sent_is_down(error: type[httpx.TransportError]) -> None:
    answer = await ask(error("no way there"))

    assert answer == ProviderResponse(Report(Said.DOWN, detail=f"not reached: {error.__name__}"))


@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError,
        httpx.ReadTimeout,
        httpx.WriteError,
        httpx.WriteTimeout,
        httpx.RemoteProtocolError,
        httpx.ProxyError,
    ],
)
async def test_a_request_that_may_have_been_received_is_lost(error: type[httpx.TransportError]) -> None:
    answer = await ask(error("cut"))

    assert answer == ProviderResponse(Report(Said.LOST, detail=f"no answer: {error.__name__}"))


async def test_a_body_that_breaks_off_is_lost() -> None:
    stream = Stream(pieces=2, breaks=True)

    assert (await ask(httpx.Response(200, stream=stream))).report == Report(Said.LOST, detail="no answer: ReadError")
    assert stream.closed


async def test_a_slowly_sent_response_is_cut_at_the_deadline() -> None:
    stream = Stream(pieces=1, piece=b"{", stalls=True)

    answer = await ask(httpx.Response(200, stream=stream), SOON)

    assert answer.report == Report(Said.LOST, detail="no answer: TimeoutError")
    assert stream.closed


async def test_a_response_of_the_maximum_size_is_complete() -> None:
    answer = await ask(httpx.Response(200, stream=Stream(pieces=16)))

    assert len(answer.body) == exchange.MAX_ANSWER_BYTES


async def test_a_longer_response_is_cut() -> None:
    stream = Stream(pieces=10_000)

    answer = await ask(httpx.Response(200, stream=stream))

    assert (len(answer.body), stream.given, stream.closed) == (exchange.MAX_ANSWER_BYTES, 17, True)


async def test_an_answer_with_a_wrong_content_encoding_is_lost() -> None:
    stream = Stream(pieces=1, piece=b"not gzip")

    answer = await ask(httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream))

    assert answer.report == Report(Said.LOST, detail="no answer: DecodingError")


async def test_a_compressed_answer_is_decoded_although_it_was_not_requested() -> None:
    stream = Stream(pieces=1, piece=gzip.compress(b"{}"))

    assert (await ask(httpx.Response(200, headers={"content-encoding": "gzip"}, stream=stream))).body == b"{}"


async def test_a_cancelled_request_raises_and_returns_no_answer() -> None:
    stream = Stream(pieces=1, stalls=True)
    task = asyncio.create_task(ask(httpx.Response(200, stream=stream)))
    await stream.stalled.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert stream.closed


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("0", timedelta()),
        ("7", timedelta(seconds=7)),
        ("10800", timedelta(hours=3)),
        ("10801", timedelta(hours=3)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u00b2", None),
        ("9" * 5000, timedelta(hours=3)),
        ("Thu, 01 Jan 2026 12:01:00 GMT", timedelta(minutes=1)),
        ("Thu, 01 Jan 2026 15:00:00 GMT", timedelta(hours=3)),
        ("Thu, 01 Jan 2026 15:00:01 GMT", timedelta(hours=3)),
        ("Thu Jan  1 12:01:00 2026", timedelta(minutes=1)),
        ("Thursday, 01-Jan-26 12:01:00 GMT", timedelta(minutes=1)),
        ("Thu, 01 Jan 2026 11:00:00 GMT", timedelta()),
        ("Thu, 99 Jan 2026 12:01:00 GMT", None),
    ],
    ids=[
        "now",
        "seconds",
        "longest",
        "too long",
        "empty",
        "negative",
        "fraction",
        "word",
        "square",
        "digits",
        "date",
        "latest date",
        "date too late",
        "date of C",
        "date of RFC 850",
        "date in the past",
        "no date",
    ],
)
def test_retry_after_is_read_up_to_three_hours(value: str, wait: timedelta | None) -> None:
    assert exchange.retry_after({"retry-after": value}, NOON) == wait


@given(st.text())
def test_any_retry_after_is_read_without_an_error(value: str) -> None:
    wait = exchange.retry_after({"retry-after": value}, NOON)

    assert wait is None or timedelta() <= wait <= timedelta(hours=3)


def test_a_date_is_compared_with_the_date_of_the_response_whose_clock_may_differ() -> None:
    date = NOON + timedelta(hours=1)
    headers = {"date": format_datetime(date, usegmt=True)}
    headers["retry-after"] = format_datetime(date + timedelta(seconds=30), usegmt=True)

    assert exchange.retry_after(headers, NOON) == timedelta(seconds=30)
    assert exchange.retry_after({**headers, "date": "yesterday"}, NOON) == timedelta(hours=1, seconds=30)


def test_a_missing_retry_after_is_none() -> None:
    assert exchange.retry_after({}, NOON) is None
