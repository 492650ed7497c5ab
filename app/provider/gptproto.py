"""GPTProto, and resellers with its path layout: `POST /flux/v1/{model}` with a Bearer key.

Its submit reply is not documented; siblings pass BFL's on. Source: docs.gptproto.com, Flux pages.
"""

from dataclasses import replace
from http import HTTPStatus

import httpx

from app.provider import bfl, messages
from app.provider import http as exchange
from app.provider.contract import ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.request_body import RequestBody
from app.rules.task import Failure, Report, Said

# It passes on BFL's delivery links (its own sample answer), and states no limit of its own.
PROMISES: ProviderSpec = replace(bfl.PROMISES, name="gptproto")

_GATEWAYS = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE})


class Gptproto:
    """The adapter for GPTProto."""

    spec = PROMISES

    def __init__(self, http: httpx.AsyncClient, base_url: str, key: str) -> None:
        self._http = http
        self._base_url = base_url
        self._key = key

    async def submit(self, order: SubmitRequest) -> ProviderResponse:
        body = RequestBody(order)
        request = self._http.build_request(
            "POST",
            f"{self._base_url}/flux/v1/{order.model}",
            content=body,
            headers={**self._headers, **body.headers},
        )
        answer = await exchange.send(self._http, request, PROMISES.submit_deadline)
        return _read_submitted(body.unless_cut(answer))

    async def fetch(self, reference: Reference) -> ProviderResponse:
        # A polling_url that it passes on is BFL's and wants a BFL key: ours stays on the configured origin.
        request = self._http.build_request(
            "GET",
            f"{self._base_url}/flux/v1/get_result",
            params={"id": reference.provider_id},
            headers=self._headers,
        )
        return exchange.read_fetched(await exchange.send(self._http, request, PROMISES.status_deadline))

    async def credits(self) -> ProviderResponse:
        # Not documented: asked where its other paths would have it, and no answer there is an answer too.
        request = self._http.build_request("GET", f"{self._base_url}/flux/v1/credits", headers=self._headers)
        return await exchange.send(self._http, request, PROMISES.status_deadline)

    async def reachable(self) -> str | None:
        request = self._http.build_request(
            "GET",
            f"{self._base_url}/flux/v1/get_result",
            params={"id": "doctor"},
            headers=self._headers,
        )
        answer = await exchange.send(self._http, request, PROMISES.status_deadline)
        return "its account has no balance left" if _is_unpaid(answer) else bfl.what_is_wrong(answer)

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}", "accept": "application/json"}


def _read_submitted(answer: ProviderResponse) -> ProviderResponse:
    """As BFL's, but 403 may be an empty account, 503 refuses the content, and what a gateway says is no answer.

    503 is its refusal only in its own words. A page without any is of the gateway in front, as is 502, which its
    documents do not have: behind either the task may well have been taken.
    """
    detail = messages.read_error(answer.body)
    if answer.http_status == HTTPStatus.SERVICE_UNAVAILABLE and detail:
        report = Report(Said.REFUSED, failure=Failure.REQUEST_MODERATED, detail=detail)
    elif answer.http_status in _GATEWAYS:
        report = Report(Said.LOST, detail=detail or f"HTTP {answer.http_status}")
    elif _is_unpaid(answer):
        report = Report(Said.UNPAID, detail=detail)
    else:
        return bfl.read_submitted(answer)
    return ProviderResponse(report, answer.http_status, answer.headers, answer.body)


def _is_unpaid(answer: ProviderResponse) -> bool:
    """Whether this 403 is about the balance: one about the key is told apart by its text alone."""
    return answer.http_status == HTTPStatus.FORBIDDEN and "balance" in messages.read_error(answer.body).lower()
