"""Black Forest Labs: `POST /v1/{model}` with `x-key`. Sources: the OpenAPI document and docs.bfl.ai."""

from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlencode

import httpx

from app.provider import http as exchange
from app.provider import messages, refusals
from app.provider.contract import ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.request_body import RequestBody
from app.rules.task import Report, Said
from app.security import result_links

SPEC = ProviderSpec(
    name="bfl",
    # Links use hosts such as delivery.*.bfl.ai and delivery-eu1.bfl.ai (integration guidelines; field reports), and
    # blob storage of Azure such as bfldeliverysc.blob.core.windows.net (recorded answers).
    result_hosts=("bfl.ai", "*.bfl.ai", "*.blob.core.windows.net"),
    # Documented are the global host, two regions and two clusters; polling URLs name further clusters, and a gateway.
    # Delivery hosts are not among them.
    api_hosts=("api.bfl.ai", "api.*.bfl.ai", "gateway.bfl.ai"),
    slots={"account": 24},
    # A task belongs to one region, and the global host may answer "Task not found" for it (field report, whose client
    # tries us3 first). The documented hosts come first, then those that were seen in a polling_url.
    status_urls=tuple(
        f"https://api.{region}.bfl.ai" for region in ("us", "eu", "us1", "eu1", "us2", "us3", "eu2", "eu4")
    ),
)

# Server errors with the advice "retry with backoff" (docs, errors page). 504 is not among them: the task may have been
# accepted.
_OUTAGES = frozenset({500, 502, 503})


class Bfl:
    """The adapter for BFL's own API and its regional hosts."""

    spec = SPEC

    def __init__(self, http: httpx.AsyncClient, base_url: str, key: str) -> None:
        self._http = http
        self._base_url = base_url
        self._key = key
        is_bfl = result_links.is_on(base_url, hosts=SPEC.api_hosts, origin="")
        self._other_hosts = [url for url in SPEC.status_urls if is_bfl and url != base_url]

    async def submit(self, submit_request: SubmitRequest) -> ProviderResponse:
        body = RequestBody(submit_request)
        request = self._http.build_request(
            "POST",
            f"{self._base_url}{submit_request.path}",
            content=body,
            headers={**self._headers, **body.headers},
        )
        response = await exchange.send(self._http, request, SPEC.submit_deadline)
        return body.unless_cut(read_submitted(response))

    async def fetch(self, reference: Reference) -> ProviderResponse:
        """Poll the host that took the task. If that host does not know the task, poll the other regions in turn.

        The report of another region holds the URL that answered as its `polling_url`.
        """
        first = await self._poll(self._first_url(reference))
        if not _is_unknown(first):
            return first
        for base_url in self._other_hosts:
            url = self._status_url(base_url, reference)
            response = await self._poll(url)
            if response.report.said not in {Said.NOT_FOUND, Said.LOST}:
                return replace(response, report=response.report._replace(polling_url=url))
        return first

    async def credits(self) -> ProviderResponse:
        request = self._http.build_request("GET", f"{self._base_url}/v1/credits", headers=self._headers)
        return await exchange.send(self._http, request, SPEC.status_deadline)

    async def reachable(self) -> str | None:
        return refusals.describe_problem(await self.credits())

    async def _poll(self, url: str) -> ProviderResponse:
        request = self._http.build_request("GET", url, headers=self._headers)
        return await exchange.poll(self._http, request, SPEC.status_deadline, self._may_receive_key)

    @staticmethod
    def _status_url(base_url: str, reference: Reference) -> str:
        return f"{base_url}/v1/get_result?{urlencode({'id': reference.provider_id})}"

    @property
    def _headers(self) -> dict[str, str]:
        return {"x-key": self._key, "accept": "application/json"}

    def _first_url(self, reference: Reference) -> str:
        if reference.polling_url and self._may_receive_key(reference.polling_url):
            return reference.polling_url
        return self._status_url(self._base_url, reference)

    def _may_receive_key(self, url: str) -> bool:
        """Whether the API key may be sent to `url`: the configured origin, or an API host of BFL over https."""
        return result_links.is_on(url, hosts=SPEC.api_hosts, origin=self._base_url)


def read_submitted(response: ProviderResponse) -> ProviderResponse:
    """Interpret BFL's response to a submission (docs, errors page; OpenAPI). Without a usable answer it is LOST."""
    status = response.http_status
    if status is None:
        return response
    if status in range(200, 300):
        report = messages.read_acceptance(response.body)
    else:
        report = refusals.read_refusal(response, outages=_OUTAGES)
    if report.said is Said.UNCLEAR:
        report = Report(Said.LOST, detail=report.detail)
    return ProviderResponse(report, status, response.headers, response.body)


def _is_unknown(response: ProviderResponse) -> bool:
    """Whether the host does not know the task: it says "Task not found", or answers 404 without a task status."""
    return response.report.said is Said.NOT_FOUND or (
        response.report.said is Said.LOST and response.http_status == HTTPStatus.NOT_FOUND
    )
