"""One HTTP exchange with a provider: sent once, never repeated, and whatever happens becomes an Answer."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus

import httpx

from app.provider import messages
from app.provider.contract import ProviderResponse
from app.rules.task import Report, Said
from app.security import ssrf

MAX_ANSWER_BYTES = 1024 * 1024
_WAIT_DIGITS = 4  # under three hours; more is a mistake
_SHORTEST_KEY = 16  # a twin takes any word for one; real ones are longer, and stand in nothing else
_KEPT_HEADERS = ("content-type", "retry-after", "x-request-id", "x-ratelimit-remaining")

# These are raised before the request's first byte is on its way: the provider cannot have heard of it.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


async def send(http: httpx.AsyncClient, request: httpx.Request, deadline: timedelta) -> ProviderResponse:
    """Send a request; an answer of any status comes back raw, anything else as DOWN or LOST.

    `deadline` is for the whole exchange: httpx bounds each read, which a dribbling answer never exceeds.
    """
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            response = await http.send(request, stream=True)
            try:
                body = await _read_bounded(response)
            finally:
                await response.aclose()
    except _UNSENT as error:
        return ProviderResponse(Report(Said.DOWN, detail=f"not reached: {type(error).__name__}"))
    except (httpx.HTTPError, OSError) as error:  # OSError: what is being sent cannot be read; or TimeoutError
        return ProviderResponse(Report(Said.LOST, detail=f"no answer: {type(error).__name__}"))
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return ProviderResponse(Report(Said.LOST), response.status_code, headers, _without_key(request, body))


def client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """An HTTP client for providers: no proxy variables, no cookies, no redirects, a fresh connection for each request.

    A kept connection that the other side has just closed fails after the bytes left, which looks like a lost
    answer and would hold a task for nothing.
    """
    return httpx.AsyncClient(
        transport=transport,
        verify=ssrf.tls(),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(None, connect=10),
        cookies=ssrf.no_cookies(),
        headers={"accept-encoding": "identity"},
        limits=httpx.Limits(max_keepalive_connections=0),
    )


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """`Retry-After` in whole seconds, where it is given and sane. Only one source has it: never depend on it."""
    value = headers.get("retry-after", "")
    if not value.isdecimal() or len(value) > _WAIT_DIGITS:
        return None
    return timedelta(seconds=int(value))


def read_fetched(answer: ProviderResponse) -> ProviderResponse:
    """A status answer, judged by its body before its HTTP status: a failed task may come with 404, 422 or 503.

    It names its task then. An HTTP error whose body says "error" of nothing is about our question: it ends no task.
    """
    if answer.http_status is None:
        return _with(answer, Report(Said.LOST, detail=answer.report.detail))
    report = messages.read_status(answer.body)
    refused = answer.http_status >= HTTPStatus.BAD_REQUEST and report.provider_id is None
    if report.said is Said.UNCLEAR or (report.said is Said.FAILED and refused):
        report = Report(Said.LOST, detail=f"HTTP {answer.http_status} without a task status")
    return _with(answer, report)


def _with(answer: ProviderResponse, report: Report) -> ProviderResponse:
    return ProviderResponse(report, answer.http_status, answer.headers, answer.body)


def _without_key(request: httpx.Request, body: bytes) -> bytes:
    """An answer may name the key that it is about, and its text is shown to whoever posted the task."""
    key = request.headers.get("x-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    return body.replace(key.encode(), b"[key]") if len(key) >= _SHORTEST_KEY else body


async def _read_bounded(response: httpx.Response) -> bytes:
    """The body up to a bound: a longer one is cut and will not parse, instead of filling the memory."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body[:MAX_ANSWER_BYTES])
