"""Black Forest Labs: `POST /v1/{model}` with `x-key`; sources are the OpenAPI document and docs.bfl.ai."""

from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlencode

import httpx

from app.provider import http as exchange
from app.provider import messages
from app.provider.contract import ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.request_body import RequestBody
from app.rules.task import Failure, Report, Said
from app.security import ssrf

PROMISES = ProviderSpec(
    name="bfl",
    # Links are on delivery.*.bfl.ai and delivery-eu1.bfl.ai alike (integration guidelines; field reports).
    result_hosts=("bfl.ai", "*.bfl.ai"),
    slots={"account": 24, "flux-kontext-max": 6},
    # A task lives in one region, and the global host may answer "Task not found" for it (field report, which asks us3
    # first). The documented hosts, then those that were seen in a polling_url.
    status_urls=tuple(
        f"https://api.{region}.bfl.ai" for region in ("us", "eu", "us1", "eu1", "us2", "us3", "eu2", "eu4")
    ),
)

# Server-side trouble, "retry with backoff" (docs, errors page). 504 and a CDN's own codes are not in it: behind
# those the task may well have been accepted.
_OUTAGES = frozenset({500, 502, 503})


class Bfl:
    """The adapter for BFL's own API and its regional hosts."""

    spec = PROMISES

    def __init__(self, http: httpx.AsyncClient, base_url: str, key: str) -> None:
        self._http = http
        self._base_url = base_url
        self._key = key
        ours = ssrf.may_hold_result(base_url, hosts=PROMISES.result_hosts, provider_origin="")
        self._elsewhere = [url for url in PROMISES.status_urls if ours and url != base_url]

    async def submit(self, order: SubmitRequest) -> ProviderResponse:
        body = RequestBody(order)
        request = self._http.build_request(
            "POST",
            f"{self._base_url}/v1/{order.model}",
            content=body,
            headers={**self._headers, **body.headers},
        )
        answer = await exchange.send(self._http, request, PROMISES.submit_deadline)
        return read_submitted(body.unless_cut(answer))

    async def fetch(self, reference: Reference) -> ProviderResponse:
        """Ask where the task was submitted, and only if nobody knows it there, in the other regions."""
        here = await self._ask(self._first_address(reference))
        if not _is_unknown(here):
            return here
        for base_url in self._elsewhere:
            address = self._address(base_url, reference)
            there = await self._ask(address)
            if there.report.said not in {Said.NOT_FOUND, Said.LOST}:
                return replace(there, report=there.report._replace(polling_url=address))
        return here

    async def credits(self) -> ProviderResponse:
        request = self._http.build_request("GET", f"{self._base_url}/v1/credits", headers=self._headers)
        return await exchange.send(self._http, request, PROMISES.status_deadline)

    async def reachable(self) -> str | None:
        return what_is_wrong(await self.credits())

    async def _ask(self, address: str) -> ProviderResponse:
        request = self._http.build_request("GET", address, headers=self._headers)
        return exchange.read_fetched(await exchange.send(self._http, request, PROMISES.status_deadline))

    @staticmethod
    def _address(base_url: str, reference: Reference) -> str:
        return f"{base_url}/v1/get_result?{urlencode({'id': reference.provider_id})}"

    @property
    def _headers(self) -> dict[str, str]:
        return {"x-key": self._key, "accept": "application/json"}

    def _first_address(self, reference: Reference) -> str:
        if reference.polling_url and self._may_hold_key(reference.polling_url):
            return reference.polling_url
        return self._address(self._base_url, reference)

    def _may_hold_key(self, url: str) -> bool:
        """Whether our key may go to this address: the configured host, or BFL's own over https, as for results."""
        return ssrf.may_hold_result(url, hosts=PROMISES.result_hosts, provider_origin=self._base_url)


def read_submitted(answer: ProviderResponse) -> ProviderResponse:
    """What BFL's answer to a submit means (docs, errors page; OpenAPI)."""
    status = answer.http_status
    if status is None:
        return answer
    report = messages.read_acceptance(answer.body) if status in range(200, 300) else _refusal(status, answer)
    if report.said is Said.UNCLEAR:
        report = Report(Said.LOST, detail=report.detail)
    return ProviderResponse(report, status, answer.headers, answer.body)


def _is_unknown(answer: ProviderResponse) -> bool:
    """Whether a host knows nothing of a task: by the status for that, or by a 404, which need not say of what."""
    return answer.report.said is Said.NOT_FOUND or (
        answer.report.said is Said.LOST and answer.http_status == HTTPStatus.NOT_FOUND
    )


def _refusal(status: int, answer: ProviderResponse) -> Report:
    detail = messages.read_error(answer.body) or f"HTTP {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS or status in _OUTAGES:
        said = Said.BUSY if status == HTTPStatus.TOO_MANY_REQUESTS else Said.DOWN
        return Report(said, detail=detail, retry_after=exchange.retry_after(answer.headers))
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return Report(Said.UNPAID, detail=detail)
    if status in range(400, 500) and status != HTTPStatus.REQUEST_TIMEOUT:
        return Report(Said.REFUSED, failure=Failure.PROVIDER_REJECTED, detail=detail)
    return Report(Said.LOST, detail=detail)


def what_is_wrong(answer: ProviderResponse) -> str | None:
    """The plain words for an answer to a question that costs nothing; None when all is well."""
    status = answer.http_status
    if status is None:
        return answer.report.detail
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return "it refuses the API key"
    if status in range(300, 400):
        return f"it redirects (HTTP {status}), which is not followed: this is not the address of its API"
    return f"it answers with HTTP {status}" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
