"""GPTProto: BFL's fields with another path and key header, and status codes with another meaning."""

import json
from io import BytesIO
from typing import Any

import httpx
import pytest

from app.provider import Bfl, Gptproto, ProviderResponse, Reference, SubmitRequest
from app.rules.task import Failure, Report, Said
from app.security.http_clients import provider_client

BASE, KEY = "https://gptproto.com", "sk-gptproto"
PARAMS = {"prompt": "a lake", "seed": None, "aspect_ratio": None, "output_format": "png", "safety_tolerance": 2}
ORDER = SubmitRequest(
    path="/v1/flux-kontext-pro",
    params=PARAMS,
    images={"input_image": BytesIO(b"an image")},
    webhook_url="https://fluxhook.example.com/callbacks/sub_1/token",
    webhook_secret="s" * 64,
)


class Other:
    """A server that gives one answer and records the requests."""

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self.answer = answer
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def refusal(status: int, message: str) -> httpx.Response:
    """GPTProto's envelope, with the HTTP code as text."""
    return httpx.Response(status, json={"error": {"message": message, "type": str(status)}})


async def submit(other: Other, base: str = BASE) -> ProviderResponse:
    async with provider_client(httpx.MockTransport(other)) as http:
        return await Gptproto(http, base, KEY).submit(ORDER)


async def submitted(answer: httpx.Response | Exception) -> Report:
    return (await submit(Other(answer))).report


async def sent() -> httpx.Request:
    await submit(other := Other(httpx.Response(200, json={"id": "task-1"})))
    return other.asked[0]


async def fetch(other: Other, polling_url: str | None = None, base: str = BASE) -> ProviderResponse:
    async with provider_client(httpx.MockTransport(other)) as http:
        return await Gptproto(http, base, KEY).fetch(Reference("task-1", polling_url))


async def reachable(answer: httpx.Response | Exception) -> str | None:
    async with provider_client(httpx.MockTransport(Other(answer))) as http:
        return await Gptproto(http, BASE, KEY).reachable()


# What is sent


async def test_a_task_is_posted_to_the_path_of_its_model() -> None:
    request = await sent()

    assert (request.method, str(request.url)) == ("POST", "https://gptproto.com/flux/v1/flux-kontext-pro")


async def test_a_reseller_with_the_same_paths_can_be_configured() -> None:
    await submit(other := Other(httpx.Response(200, json={"id": "task-1"})), "https://api.example.com/base")

    assert str(other.asked[0].url) == "https://api.example.com/base/flux/v1/flux-kontext-pro"


async def test_the_key_is_sent_as_a_bearer_token() -> None:
    request = await sent()

    assert request.headers["authorization"] == "Bearer sk-gptproto"
    assert "x-key" not in request.headers


async def test_the_fields_are_those_of_bfl() -> None:
    assert json.loads((await sent()).content) == PARAMS | {
        "input_image": "YW4gaW1hZ2U=",
        "webhook_url": ORDER.webhook_url,
        "webhook_secret": ORDER.webhook_secret,
    }


# What the answer to a submit means


@pytest.mark.parametrize(
    "body",
    [{"id": "task-1"}, {"id": "task-1", "status": "Pending"}, {"task_id": "task-1"}],
    ids=["id", "with a webhook", "task_id"],
)
async def test_an_acceptance_is_read_in_each_likely_form(body: dict[str, Any]) -> None:
    assert await submitted(httpx.Response(200, json=body)) == Report(Said.PENDING, provider_id="task-1")


async def test_a_503_is_moderation_and_not_an_outage() -> None:
    assert await submitted(refusal(503, "Your input may violate the content rules")) == Report(
        Said.REFUSED, failure=Failure.REQUEST_MODERATED, detail="Your input may violate the content rules"
    )


async def test_after_a_503_without_an_error_text_the_task_may_have_been_accepted() -> None:
    assert await submitted(httpx.Response(503, text="<html>")) == Report(Said.LOST, detail="HTTP 503")


async def test_a_503_of_the_cdn_is_no_moderation() -> None:
    answer = httpx.Response(503, json={"title": "Error 1200", "detail": "Too many requests wait", "ray_id": "9e0d"})

    assert await submitted(answer) == Report(Said.LOST, detail="Too many requests wait")


@pytest.mark.parametrize("answer", [httpx.Response(502, text="<html>"), refusal(502, "Bad gateway")])
async def test_after_a_502_the_task_may_have_been_accepted(answer: httpx.Response) -> None:
    assert (await submitted(answer)).said is Said.LOST


@pytest.mark.parametrize("message", ["Insufficient balance", "INSUFFICIENT BALANCE, please top up"])
async def test_a_403_about_the_balance_is_unpaid(message: str) -> None:
    assert await submitted(refusal(403, message)) == Report(Said.UNPAID, detail=message)


@pytest.mark.parametrize(
    "answer", [refusal(403, "Invalid token"), refusal(401, "Invalid signature")], ids=["token", "signature"]
)
async def test_a_refused_key_is_not_a_failure_of_the_task(answer: httpx.Response) -> None:
    report = await submitted(answer)

    assert (report.said, report.failure) == (Said.KEY_REFUSED, Failure.PROVIDER_REJECTED)


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_a_page_of_a_gateway_says_nothing_about_the_task(status: int) -> None:
    assert (await submitted(httpx.Response(status, text="<html>Cloudflare"))).said is Said.BLOCKED


@pytest.mark.parametrize("status", [301, 307, 421, 521, 523, 525, 526, 530])
async def test_an_answer_of_a_server_that_did_not_process_the_request_is_tried_again(status: int) -> None:
    assert (await submitted(httpx.Response(status, text="<html>"))).said is Said.DOWN


async def test_any_other_refusal_is_a_rejection() -> None:
    report = await submitted(refusal(400, "Unknown parameter"))

    assert (report.said, report.failure) == (Said.REFUSED, Failure.PROVIDER_REJECTED)


async def test_an_outage_is_down() -> None:
    assert await submitted(refusal(500, "Internal server error")) == Report(Said.DOWN, detail="Internal server error")


async def test_a_rate_limit_is_busy() -> None:
    assert (await submitted(refusal(429, "Rate limit"))).said is Said.BUSY


@pytest.mark.parametrize("status", [408, 504, 520, 522, 524])
async def test_after_a_gateway_timeout_the_task_may_have_been_accepted(status: int) -> None:
    assert (await submitted(httpx.Response(status))).said is Said.LOST


async def test_a_success_without_an_id_is_a_lost_answer() -> None:
    assert (await submitted(httpx.Response(200, json={"code": 200, "data": {}}))).said is Said.LOST


@pytest.mark.parametrize(
    ("error", "said"), [(httpx.ConnectError, Said.DOWN), (httpx.ReadError, Said.LOST)], ids=["connect", "read"]
)
async def test_only_an_unsent_request_was_certainly_not_received(error: type[httpx.TransportError], said: Said) -> None:
    assert (await submitted(error("cut"))).said is said


async def test_the_raw_answer_is_returned() -> None:
    answer = await submit(Other(httpx.Response(503, content=b"\xffraw", headers={"x-request-id": "r-1"})))

    assert (answer.http_status, answer.body, answer.headers) == (503, b"\xffraw", {"x-request-id": "r-1"})


# Where a task is asked for


@pytest.mark.parametrize(
    "polling_url",
    [
        None,
        "https://api.eu2.bfl.ai/v1/get_result?id=task-1",
        "https://gptproto.com/flux/v1/other?id=task-1",
        "https://evil.com/",
        "https://[",
    ],
    ids=["none", "of bfl", "of its own", "elsewhere", "broken"],
)
async def test_the_key_is_sent_only_to_the_configured_origin(polling_url: str | None) -> None:
    await fetch(other := Other(httpx.Response(200)), polling_url)

    assert [str(request.url) for request in other.asked] == ["https://gptproto.com/flux/v1/get_result?id=task-1"]
    assert other.asked[0].headers["authorization"] == "Bearer sk-gptproto"


@pytest.mark.parametrize(
    ("base", "location", "followed"),
    [
        (BASE, "https://api.gptproto.com/flux/v1/get_result?id=task-1", True),
        (BASE, "/flux/v2/get_result?id=task-1", True),
        (BASE, "https://api.bfl.ai/v1/get_result?id=task-1", False),
        ("https://api.reseller.example", "https://api.reseller.example/moved", True),
        ("https://api.reseller.example", "https://gptproto.com/flux/v1/get_result?id=task-1", False),
    ],
)
async def test_a_redirected_poll_is_followed_with_the_key_on_its_own_hosts(
    base: str, location: str, *, followed: bool
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(302, headers={"location": location} if len(asked) == 1 else {})

    async with provider_client(httpx.MockTransport(answer)) as http:
        await Gptproto(http, base, KEY).fetch(Reference("task-1", None))

    assert len(asked) == 1 + followed
    assert {request.headers["authorization"] for request in asked} == {f"Bearer {KEY}"}


async def test_a_result_in_its_own_form_is_read() -> None:
    result = {"sample": "https://delivery-eu1.bfl.ai/a.png", "seed": 7, "startTime": 1.5, "endTime": 9.0}
    body = {"id": "task-1", "status": "Ready", "result": result, "progress": None}

    answer = await fetch(Other(httpx.Response(200, json=body)))

    assert (answer.report.said, answer.report.sample_url, answer.report.seed) == (Said.READY, result["sample"], 7)


@pytest.mark.parametrize("status", [404, 422, 503])
async def test_a_status_is_read_whatever_the_http_status(status: int) -> None:
    body = {"id": "task-1", "status": "Content Moderated", "result": None}

    assert (await fetch(Other(httpx.Response(status, json=body)))).report == Report(
        Said.FAILED, provider_id="task-1", failure=Failure.CONTENT_MODERATED
    )


async def test_a_503_to_a_poll_is_not_moderation() -> None:
    report = (await fetch(Other(refusal(503, "Service unavailable")))).report

    assert report == Report(Said.LOST, detail="HTTP 503 without a task status")


# Whether it can be used


async def test_an_unknown_task_shows_that_the_key_is_accepted() -> None:
    assert await reachable(httpx.Response(404, json={"status": "Task not found"})) is None


async def test_a_refused_key_is_reported() -> None:
    assert await reachable(refusal(403, "Invalid token")) == "it refuses the API key"


async def test_an_empty_account_is_not_reported_as_a_refused_key() -> None:
    assert await reachable(refusal(403, "Insufficient balance")) == "its account has no balance left"


def test_its_specification_is_that_of_bfl_under_its_own_name() -> None:
    assert (Gptproto.spec.name, Gptproto.spec.result_hosts) == ("gptproto", Bfl.spec.result_hosts)


async def test_the_balance_is_requested_below_flux_v1() -> None:
    other = Other(httpx.Response(404))
    async with provider_client(httpx.MockTransport(other)) as http:
        answer = await Gptproto(http, BASE, KEY).credits()

    assert (str(other.asked[0].url), answer.http_status) == ("https://gptproto.com/flux/v1/credits", 404)
