"""Calls of a batch to the service. What passes by itself is waited for: an outage, a limit, a full queue."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx

from app.cli.api import refusal, unreachable
from app.errors import FluxhookError

_TRIES = 8
_MAX_PAUSE_S = 30.0
_MAX_WAIT_S = 24 * 3600
_WAITED_FOR = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.SERVICE_UNAVAILABLE})
_FOR_ALL = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_IN_FLIGHT = "request_in_flight"

Say = Callable[[str], None]


class RowFailed(Exception):
    """This row cannot be done now; the message says why. Other rows go on."""


class BatchStopped(FluxhookError):
    """No row can be done, such as with a wrong API key."""


class Calls:
    """Sends requests. A wait that the service asks for holds all of them."""

    def __init__(self, http: httpx.AsyncClient, say: Say) -> None:
        self._http = http
        self._say = say
        self._resumes_at = 0.0  # on the clock of the event loop

    async def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return a successful answer. Raises RowFailed or BatchStopped."""
        problem = ""
        pause = 1.0
        tries = 0
        while tries < _TRIES:
            await self._until_resumed()
            try:
                response = await self._http.request(method, path, **options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = unreachable(str(self._http.base_url), error)
            else:
                if response.is_success:
                    return response
                problem = refusal(response)
                if self._holds(response):
                    continue
                self._raise_unless_passing(response, problem)
            tries += 1
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)
        raise RowFailed(problem)

    def _holds(self, response: httpx.Response) -> bool:
        """Whether the service says when to come back; hold all requests until then."""
        wait = response.headers.get("retry-after", "")
        if response.status_code not in _WAITED_FOR or not wait.isdecimal():
            return False
        resumes_at = asyncio.get_running_loop().time() + min(max(int(wait[:9]), 1), _MAX_WAIT_S)
        if resumes_at > self._resumes_at:
            self._resumes_at = resumes_at
            self._say(f"waiting {int(wait[:9])} s: {refusal(response)}")
        return True

    def _raise_unless_passing(self, response: httpx.Response, problem: str) -> None:
        status = response.status_code
        if status in _FOR_ALL or response.is_redirect:
            raise BatchStopped(problem)
        if status == HTTPStatus.CONFLICT and _code(response) == _IN_FLIGHT:
            return
        if status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
            raise RowFailed(problem)

    async def _until_resumed(self) -> None:
        loop = asyncio.get_running_loop()
        while self._resumes_at > loop.time():  # noqa: ASYNC110 - it may have moved on meanwhile
            await asyncio.sleep(self._resumes_at - loop.time())


def _code(response: httpx.Response) -> str | None:
    try:
        code = response.json()["code"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, str) else None
