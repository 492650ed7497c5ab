"""GPTProto and resellers with the same paths: `POST /flux/v1/{model}` with a Bearer key.

Source: docs.gptproto.com, Flux pages. The response to a submission is not documented; similar APIs pass on BFL's.
"""

from dataclasses import replace
from http import HTTPStatus

import httpx

from app.provider import bfl, messages, refusals
from app.provider import http as exchange
from app.provider.contract import ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.request_body import RequestBody
from app.rules.task import Failure, Report, Said
from app.security import result_links

# GPTProto passes on BFL's delivery links (its sample response) and states no limits of its own.
SPEC: ProviderSpec = replace(bfl.SPEC, name="gptproto", api_hosts=("gptproto.com", "api.gptproto.com"))

_GATEWAY_ERRORS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})


class Gptproto:
    """The adapter for GPTProto."""

    spec = SPEC

    def __init__(self, http: httpx.AsyncClient, base_url: str, key: str) -> None:
        self._http = http
        self._base_url = base_url
        self._key = key

    async def submit(self, submit_request: SubmitRequest) -> ProviderResponse:
        body = RequestBody(submit_request)
        request = self._http.build_request(
            "POST",
            f"{self._base_url}/flux{submit_request.path}",
            content=body,
            headers={**self._headers, **body.headers},
        )
        response = await exchange.send(self._http, request, SPEC.submit_deadline)
        return body.unless_cut(_read_submitted(response))

    async def fetch(self, reference: Reference) -> ProviderResponse:
        # A `polling_url` that GPTProto passes on needs a BFL key; this key goes to the configured origin only.
        request = self._http.build_request(
            "GET",
            f"{self._base_url}/flux/v1/get_result",
            params={"id": reference.provider_id},
            headers=self._headers,
        )
        return await exchange.poll(self._http, request, SPEC.status_deadline, self._may_receive_key)

    async def credits(self) -> ProviderResponse:
        # Not documented: the path follows the pattern of the others, and a 404 is a valid outcome.
        request = self._http.build_request("GET", f"{self._base_url}/flux/v1/credits", headers=self._headers)
        return await exchange.send(self._http, request, SPEC.status_deadline)

    async def reachable(self) -> str | None:
        request = self._http.build_request(
            "GET",
            f"{self._base_url}/flux/v1/get_result",
            params={"id": "doctor"},
            headers=self._headers,
        )
        return refusals.describe_problem(await exchange.send(self._http, request, SPEC.status_deadline))

    def _may_receive_key(self, url: str) -> bool:
        """Whether a redirect to `url` may receive the API key. The key of a reseller stays on its own origin."""
        is_gptproto = result_links.is_on(self._base_url, hosts=SPEC.api_hosts, origin="")
        return result_links.is_on(url, hosts=SPEC.api_hosts if is_gptproto else (), origin=self._base_url)

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}", "accept": "application/json"}


def _read_submitted(response: ProviderResponse) -> ProviderResponse:
    """Interpret the response to a submission: as BFL's, except for 502 and 503.

    503 with an error text refuses the content. 503 without one comes from the gateway in front of the API, and so does
    502, which is not documented: either is LOST, because the task may have been accepted.
    """
    detail, status = messages.read_error(response.body), response.http_status
    if status == HTTPStatus.SERVICE_UNAVAILABLE and not refusals.is_from_gateway(status, response.body):
        report = Report(Said.REFUSED, failure=Failure.REQUEST_MODERATED, detail=detail)
    elif status in _GATEWAY_ERRORS:
        report = Report(Said.LOST, detail=detail or f"HTTP {status}")
    else:
        return bfl.read_submitted(response)
    return ProviderResponse(report, status, response.headers, response.body)
