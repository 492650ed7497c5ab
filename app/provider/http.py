"""One HTTP exchange with a provider: sent once, never retried; every outcome is a ProviderResponse."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus

import httpx

from app import clock
from app.provider import messages
from app.provider.contract import ProviderResponse
from app.rules.backoff import read_http_date, read_retry_after
from app.rules.task import Report, Said
from app.security.redact import redact

MAX_ANSWER_BYTES = 1024 * 1024
_MAX_RETRY_AFTER = timedelta(hours=3)  # a longer wait is shortened to this: it may be a mistake of the provider
_MIN_KEY = 16  # characters; the twin accepts shorter keys, which could be part of other text
_MAX_REDIRECTS = 3
_KEY_HEADERS = ("x-key", "authorization")
_STORED_HEADERS = ("content-type", "date", "retry-after", "x-request-id", "x-ratelimit-remaining")

_ENDS = frozenset({Said.FAILED, Said.NOT_FOUND})  # reports that may end a task
_ABOUT_REQUEST = frozenset({401, 402, 403, 405, 407, 421, 429})
_FIRST_OF_CDN = 520  # the first of the statuses that only CDNs send

# Raised before the first byte of the request is sent: the provider cannot have received it.
_UNSENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


async def send(http: httpx.AsyncClient, request: httpx.Request, deadline: timedelta) -> ProviderResponse:
    """Send a request and return the raw response, whatever its status; without a response, return DOWN or LOST.

    DOWN: the request was not sent. LOST: the provider may have received it. `deadline` limits the whole exchange,
    because httpx limits only each read, which a slowly sent response never exceeds.
    """
    return await _send(http, request, deadline, follow=lambda _: False)


async def poll(
    http: httpx.AsyncClient, request: httpx.Request, deadline: timedelta, may_receive_key: Callable[[str], bool]
) -> ProviderResponse:
    """Send a poll, follow at most three redirects, and interpret the response (see `_read_fetched`).

    A redirect is followed with the API key, and only to a URL that may receive it: an answer from any other host would
    not be the provider's.
    """
    return _read_fetched(await _send(http, request, deadline, follow=may_receive_key))


async def _send(
    http: httpx.AsyncClient, request: httpx.Request, deadline: timedelta, follow: Callable[[str], bool]
) -> ProviderResponse:
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            response, body = await _exchange(http, request)
            for _ in range(_MAX_REDIRECTS):
                if response.next_request is None or not follow(str(response.next_request.url)):
                    break
                response, body = await _exchange(http, _with_key(response.next_request, request))
    except _UNSENT as error:
        return ProviderResponse(Report(Said.DOWN, detail=f"not reached: {_reason(error)}"))
    except (httpx.HTTPError, OSError) as error:  # OSError: an image cannot be read, or TimeoutError
        return ProviderResponse(Report(Said.LOST, detail=f"no answer: {type(error).__name__}"))
    headers = {name: response.headers[name] for name in _STORED_HEADERS if name in response.headers}
    return ProviderResponse(Report(Said.LOST), response.status_code, headers, _redact_key(request, body))


async def _exchange(http: httpx.AsyncClient, request: httpx.Request) -> tuple[httpx.Response, bytes]:
    response = await http.send(request, stream=True)
    try:
        return response, await _read_bounded(response)
    finally:
        await response.aclose()


def _with_key(redirected: httpx.Request, request: httpx.Request) -> httpx.Request:
    """Add the API key to a redirected request. httpx removes `Authorization` when the host changes, but not `x-key`."""
    for name in _KEY_HEADERS:
        if name in request.headers:
            redirected.headers[name] = request.headers[name]
    return redirected


def _reason(error: Exception) -> str:
    """Name what an operator can repair: the proxy, or an authority that is not trusted."""
    text = str(error)
    return text if text.startswith("the proxy ") or "CERTIFICATE_VERIFY_FAILED" in text else type(error).__name__


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return the wait that `Retry-After` asks for, in seconds or as a date, at most three hours.

    A date is compared with the date of the response, because the provider's clock may differ from `now`. None if the
    header is missing or invalid. Never raises. Only one source documents the header for this API, so nothing may depend
    on it.
    """
    wait = read_retry_after(headers.get("retry-after", ""), read_http_date(headers.get("date", "")) or now)
    return None if wait is None else min(wait, _MAX_RETRY_AFTER)


def _read_fetched(response: ProviderResponse) -> ProviderResponse:
    """Interpret the response to a poll by its body first: the status of a failed task may come with 404, 422 or 503.

    Such a body holds the task's id. An HTTP error without an id is about the request, and does not fail the task: LOST.
    So is one about the API key or the way to the provider, whatever its body holds.
    """
    status = response.http_status
    if status is None:
        return _with_report(response, Report(Said.LOST, detail=response.report.detail))
    report = messages.read_status(response.body)
    without_task = status >= HTTPStatus.BAD_REQUEST and report.provider_id is None
    if (
        report.said is Said.UNCLEAR
        or (report.said is Said.FAILED and without_task)
        or (report.said in _ENDS and _is_about_request(status))
    ):
        wait = retry_after(response.headers, clock.utc_now())
        report = Report(Said.LOST, detail=_without_status(status), retry_after=wait)
    return _with_report(response, report)


def _without_status(status: int) -> str:
    redirect = ": a redirect that is not followed" if status in range(300, 400) else ""
    return f"HTTP {status} without a task status{redirect}"


def _is_about_request(status: int) -> bool:
    """Whether the API did not look at the task: it was redirected, refused the key or the rate, or was not reached."""
    return status in range(300, 400) or status in _ABOUT_REQUEST or status >= _FIRST_OF_CDN


def _with_report(response: ProviderResponse, report: Report) -> ProviderResponse:
    return ProviderResponse(report, response.http_status, response.headers, response.body)


def _redact_key(request: httpx.Request, body: bytes) -> bytes:
    """Replace the API key, which a response may quote: its text is shown to applications."""
    key = request.headers.get("x-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    return redact(body, {key.encode(): b"[key]"}) if len(key) >= _MIN_KEY else body


async def _read_bounded(response: httpx.Response) -> bytes:
    """Read at most MAX_ANSWER_BYTES, to bound memory. A longer body is cut, and then does not parse."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            break
    return bytes(body[:MAX_ANSWER_BYTES])
