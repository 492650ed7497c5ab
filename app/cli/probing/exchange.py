"""Requests of a probe: to the provider with its API key, and to the link of an image without one."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx

from app.cli.probing import shape
from app.cli.probing.report import Answer, Redirect
from app.provider import ProviderSpec
from app.security import result_links

_MAX_REDIRECTS = 5
_MAX_BODY = 1024 * 1024
_DEADLINE_S = 60


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came, and as the report describes it."""

    answer: Answer
    body: bytes


class Exchange:
    """The provider's API. Times count from the creation of this object, until `start` is called."""

    def __init__(self, http: httpx.AsyncClient, spec: ProviderSpec, base_url: str, key: str) -> None:
        self._http = http
        self._spec = spec
        self._base_url = base_url
        self._prefix = "/flux" if spec.name == "gptproto" else ""
        self._key = {"authorization": f"Bearer {key}"} if spec.name == "gptproto" else {"x-key": key}
        self._began = time.monotonic()

    def start(self) -> None:
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the submission."""
        return round(time.monotonic() - self._began, 3)

    async def submit(self, path: str, body: Mapping[str, Any]) -> Received:
        return await self._request("POST", f"{self._base_url}{self._prefix}{path}", json=dict(body))

    async def poll(self, provider_id: str, polling_url: str | None) -> Received:
        """Ask where the provider said, if the API key may go there, else at the configured host."""
        known = polling_url is not None and self._may_receive_key(polling_url)
        query = urlencode({"id": provider_id})
        url = polling_url if known and polling_url else f"{self._base_url}{self._prefix}/v1/get_result?{query}"
        return await self._request("GET", url)

    async def credits(self) -> float | None:
        """Return the balance of the account, or None if it is not told."""
        received = await self._request("GET", f"{self._base_url}{self._prefix}/v1/credits")
        return shape.number(received.body, "credits")

    async def _request(self, method: str, url: str, **options: Any) -> Received:
        after, redirects = self.elapsed, list[Redirect]()
        began = time.monotonic()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                request = self._http.build_request(method, url, headers=self._key, **options)
                response, body = await _send(self._http, request)
                while response.next_request is not None and len(redirects) < _MAX_REDIRECTS:
                    target = str(response.next_request.url)
                    followed = self._may_receive_key(target)
                    redirects.append(Redirect(response.status_code, shape.host_of(target), followed))
                    if not followed:
                        break
                    response.next_request.headers.update(self._key)
                    response, body = await _send(self._http, response.next_request)
        except (httpx.HTTPError, OSError) as error:  # TimeoutError is an OSError
            took = round(time.monotonic() - began, 3)
            return Received(Answer(after, took, None, redirects=redirects, problem=type(error).__name__), b"")
        answer = Answer(
            after,
            round(time.monotonic() - began, 3),
            response.status_code,
            says=shape.word(body),
            members=shape.of_body(body),
            headers=sorted(response.headers),
            redirects=redirects,
            cost=shape.number(body, "cost"),
        )
        return Received(answer, body)

    def _may_receive_key(self, url: str) -> bool:
        return result_links.is_on(url, hosts=self._spec.api_hosts, origin=self._base_url)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a link gave."""

    status: int | None
    headers: list[str]
    media_type: str | None
    bytes: int
    redirects: list[Redirect]
    problem: str | None


async def download(http: httpx.AsyncClient, url: str) -> Downloaded:
    """Request a link without an API key and count its bytes."""
    redirects: list[Redirect] = []
    try:
        async with asyncio.timeout(_DEADLINE_S):
            request = http.build_request("GET", url)
            response, body = await _send(http, request, limit=None)
            while response.next_request is not None and len(redirects) < _MAX_REDIRECTS:
                redirects.append(Redirect(response.status_code, shape.host_of(str(response.next_request.url)), True))
                response, body = await _send(http, response.next_request, limit=None)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Downloaded(None, [], None, 0, redirects, type(error).__name__)
    media_type = response.headers.get("content-type")
    return Downloaded(response.status_code, sorted(response.headers), media_type, len(body), redirects, None)


async def _send(
    http: httpx.AsyncClient, request: httpx.Request, limit: int | None = _MAX_BODY
) -> tuple[httpx.Response, bytes]:
    response = await http.send(request, stream=True)
    try:
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if limit is not None and len(body) > limit:
                break
        return response, bytes(body)
    finally:
        await response.aclose()
