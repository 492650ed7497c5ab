"""BFL: the requests, the meaning of the responses, and the hosts that receive the API key."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import clock
from app.provider import Bfl, ProviderResponse, Reference, SubmitRequest
from app.rules.task import Failure, Report, Said
from app.security.http_clients import provider_client

BASE, KEY = "https://api.bfl.ai", "bfl-key"
POLL = "https://api.eu2.bfl.ai/v1/get_result?id=task-1"
SAMPLE = "https://delivery.eu1.bfl.ai/a.png"
PARAMS = {
    "prompt": "a lake",
    "seed": None,
    "aspect_ratio": None,
    "output_format": "png",
    "prompt_upsampling": False,
    "safety_tolerance": 2,
}
HOOK = "https://fluxhook.example.com/callbacks/sub_1/token"


@dataclass
class Other:
    """A server that gives one answer and records the requests."""

    answer: httpx.Response | Exception = field(default_factory=lambda: httpx.Response(200, json={"id": "task-1"}))
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def request(self) -> httpx.Request:
        assert len(self.asked) == 1
        return self.asked[0]

    @property
    def sent(self) -> Any:
        return json.loads(self.request.content)


def order(model: str = "flux-kontext-pro", **changed: Any) -> SubmitRequest:
    given: dict[str, Any] = {"params": PARAMS, "images": {}, "webhook_url": HOOK, "webhook_secret": "s" * 64}
    return SubmitRequest(path=f"/v1/{model}", **given | changed)


async def submit(
    other: Callable[[httpx.Request], httpx.Response], order: SubmitRequest, base: str = BASE
) -> ProviderResponse:
    async with provider_client(httpx.MockTransport(other)) as http:
        return await Bfl(http, base, KEY).submit(order)


async def submitted(answer: httpx.Response | Exception) -> Report:
    return (await submit(Other(answer), order())).report


async def fetch(other: Other, polling_url: str | None = None, base: str = BASE) -> ProviderResponse:
    async with provider_client(httpx.MockTransport(other)) as http:
        return await Bfl(http, base, KEY).fetch(Reference("task-1", polling_url))


async def reachable(answer: httpx.Response | Exception) -> str | None:
    async with provider_client(httpx.MockTransport(Other(answer))) as http:
        return await Bfl(http, BASE, KEY).reachable()


# What is sent


@pytest.mark.parametrize("model", ["flux-kontext-pro", "flux-kontext-max"])
async def test_a_task_is_posted_to_the_path_of_its_model(model: str) -> None:
    await submit(other := Other(), order(model))

    assert (other.request.method, str(other.request.url)) == ("POST", f"https://api.bfl.ai/v1/{model}")


async def test_the_path_of_the_base_url_is_kept() -> None:
    await submit(other := Other(), order(), "http://twin:9000/bfl")

    assert str(other.request.url) == "http://twin:9000/bfl/v1/flux-kontext-pro"


async def test_the_key_is_sent_in_x_key() -> None:
    await submit(other := Other(), order())

    assert other.request.headers["x-key"] == KEY
    assert "authorization" not in other.request.headers


async def test_the_content_type_is_json() -> None:
    await submit(other := Other(), order())

    assert other.request.headers["content-type"] == "application/json"


async def test_every_field_is_sent_even_at_its_default() -> None:
    await submit(other := Other(), order())

    assert other.sent == PARAMS | {"webhook_url": HOOK, "webhook_secret": "s" * 64}


async def test_images_are_sent_as_bare_base64() -> None:
    await submit(
        other := Other(), order(images={"input_image": BytesIO(b"\xff\xd8one"), "input_image_2": BytesIO(b"two")})
    )

    assert other.sent["input_image"] == base64.b64encode(b"\xff\xd8one").decode()
    assert other.sent["input_image_2"] == "dHdv"


async def test_without_a_public_url_no_webhook_is_requested() -> None:
    await submit(other := Other(), order(webhook_url=None, webhook_secret=None))

    assert not {"webhook_url", "webhook_secret"} & set(other.sent)


async def test_a_prompt_in_any_script_arrives_unchanged() -> None:
    await submit(other := Other(), order(params=PARAMS | {"prompt": "\u00e9\u4e2d\U0001f600\n\u2028"}))

    assert other.sent["prompt"] == "\u00e9\u4e2d\U0001f600\n\u2028"


# What the answer to a submit means


async def test_an_acceptance_has_an_id_a_cost_and_a_polling_url() -> None:
    answer = httpx.Response(200, json={"id": "task-1", "polling_url": POLL, "cost": 4.5})

    assert await submitted(answer) == Report(Said.PENDING, provider_id="task-1", polling_url=POLL, cost=4.5)


async def test_an_acceptance_with_a_webhook_has_an_id() -> None:
    answer = httpx.Response(200, json={"id": "task-1", "status": "Pending", "webhook_url": HOOK})

    assert await submitted(answer) == Report(Said.PENDING, provider_id="task-1")


@pytest.mark.parametrize("status", [201, 202])
async def test_any_success_with_an_id_is_an_acceptance(status: int) -> None:
    assert (await submitted(httpx.Response(status, json={"id": "task-1"}))).said is Said.PENDING


async def test_a_429_is_busy_with_its_retry_after() -> None:
    answer = httpx.Response(429, json={"detail": "Too many active tasks"}, headers={"retry-after": "7"})

    assert await submitted(answer) == Report(
        Said.BUSY, detail="Too many active tasks", retry_after=timedelta(seconds=7)
    )


async def test_a_429_may_have_a_date_as_retry_after() -> None:
    at = clock.utc_now().replace(microsecond=0) + timedelta(minutes=2)
    answer = httpx.Response(429, headers={"retry-after": format_datetime(at, usegmt=True)})

    wait = (await submitted(answer)).retry_after

    assert wait is not None
    assert timedelta(minutes=1) < wait <= timedelta(minutes=2)


@pytest.mark.parametrize(
    ("body", "wait"), [({"retry_after": 12}, 12), ({"retry_after": 0}, None), ({"retry_after": 10**9}, None)]
)
async def test_the_body_may_say_for_how_long(body: dict[str, int], wait: int | None) -> None:
    found = (await submitted(httpx.Response(429, json=body))).retry_after

    assert found == (None if wait is None else timedelta(seconds=wait))


async def test_a_429_may_have_no_retry_after() -> None:
    assert await submitted(httpx.Response(429)) == Report(Said.BUSY, detail="HTTP 429")


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_documented_server_error_is_down(status: int) -> None:
    assert await submitted(httpx.Response(status, text="<html>")) == Report(Said.DOWN, detail=f"HTTP {status}")


async def test_an_outage_may_have_a_retry_after() -> None:
    answer = httpx.Response(503, headers={"retry-after": "30"})

    assert (await submitted(answer)).retry_after == timedelta(seconds=30)


async def test_a_402_is_unpaid_and_not_a_failure_of_the_task() -> None:
    answer = httpx.Response(402, json={"detail": "Insufficient credits"})

    assert await submitted(answer) == Report(Said.UNPAID, detail="Insufficient credits")


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 422, 451])
async def test_any_other_refusal_in_the_words_of_the_api_will_not_change_by_asking_again(status: int) -> None:
    answer = httpx.Response(status, json={"detail": "Not for this task"})

    assert await submitted(answer) == Report(
        Said.REFUSED, failure=Failure.PROVIDER_REJECTED, detail="Not for this task"
    )


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "body",
    [
        {"detail": "Not authenticated - Invalid Authentication"},
        {"error": "invalid_api_key", "message": "Not authenticated - Invalid Authentication", "details": {}},
    ],
    ids=["detail", "skills"],
)
async def test_a_refused_key_is_not_a_failure_of_the_task(status: int, body: dict[str, Any]) -> None:
    assert await submitted(httpx.Response(status, json=body)) == Report(
        Said.KEY_REFUSED, failure=Failure.PROVIDER_REJECTED, detail="Not authenticated - Invalid Authentication"
    )


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_without_credits_is_unpaid_whatever_the_status(status: int) -> None:
    assert (await submitted(httpx.Response(status, json={"detail": "Insufficient credits"}))).said is Said.UNPAID


# Pages of gateways: HTML, nothing at all, another service's JSON, and the JSON that Cloudflare sends for its own pages.
CLOUDFLARES = {
    "type": "https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors/",
    "title": "Error 1020: Access denied",
    "status": 403,
    "detail": "The owner of the site has blocked your address.",
    "ray_id": "9e0d0000000000",
}
PAGES: dict[str, dict[str, Any]] = {
    "html": {"text": "<!DOCTYPE html><title>Attention Required! | Cloudflare</title>"},
    "nothing": {"content": b""},
    "other json": {"json": {"success": False}},
    "json of the cdn": {"json": CLOUDFLARES},
}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 406, 407, 410, 414, 415, 426, 431, 451])
@pytest.mark.parametrize("page", PAGES)
async def test_a_page_of_a_gateway_says_nothing_about_the_task(status: int, page: str) -> None:
    report = await submitted(httpx.Response(status, **PAGES[page]))

    assert (report.said, report.failure) == (Said.BLOCKED, Failure.PROVIDER_ERROR)
    assert (report.detail or "").startswith(f"HTTP {status} from a gateway")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("status", [409, 413, 422])
async def test_a_status_about_the_content_of_a_request_is_about_the_task_whoever_sends_it(
    status: int, page: str
) -> None:
    assert (await submitted(httpx.Response(status, **PAGES[page]))).said is Said.REFUSED


async def test_a_gateway_may_say_for_how_long() -> None:
    at = clock.utc_now().replace(microsecond=0) + timedelta(minutes=2)
    answer = httpx.Response(403, text="<html>", headers={"retry-after": format_datetime(at, usegmt=True)})

    wait = (await submitted(answer)).retry_after

    assert wait is not None
    assert timedelta(minutes=1) < wait <= timedelta(minutes=2)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 421, 425, 501, 505, 511, 521, 523, 525, 526, 530])
async def test_an_answer_of_a_server_that_did_not_process_the_request_is_tried_again(status: int, page: str) -> None:
    answer = httpx.Response(status, **PAGES[page], headers={"location": "https://api.bfl.ai/v2/", "retry-after": "9"})

    report = await submitted(answer)

    assert (report.said, report.retry_after) == (Said.DOWN, timedelta(seconds=9))


async def test_a_validation_error_has_the_text_of_the_provider() -> None:
    problem = {
        "loc": ["body", "safety_tolerance"],
        "msg": "Input should be less than 3",
        "type": "less_than",
        "input": 6,
    }

    assert (await submitted(httpx.Response(422, json={"detail": [problem]}))).detail == (
        "body.safety_tolerance: Input should be less than 3"
    )


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("status", [408, 460, 499, 504, 507, 520, 522, 524, 527, 529, 599])
async def test_after_any_other_answer_the_task_may_have_been_accepted(status: int, page: str) -> None:
    assert (await submitted(httpx.Response(status, **PAGES[page]))).said is Said.LOST


@pytest.mark.parametrize(
    "body",
    [b"", b'{"id": "task', b"{}", b'{"id": null}', b"<html>", b"[]", b"\xff", b"[" * 100_000],
    ids=["empty", "cut", "no id", "null", "html", "list", "bytes", "nested"],
)
async def test_a_success_without_a_readable_id_is_a_lost_answer(body: bytes) -> None:
    assert await submitted(httpx.Response(200, content=body)) == Report(Said.LOST, detail="an acceptance without an id")


async def test_the_raw_answer_is_returned() -> None:
    answer = await submit(
        Other(httpx.Response(429, content=b"\xffraw", headers={"retry-after": "7", "server": "x"})), order()
    )

    assert (answer.http_status, answer.body, answer.headers) == (429, b"\xffraw", {"retry-after": "7"})


async def test_an_unsent_request_is_down() -> None:
    assert (await submitted(httpx.ConnectError("refused"))).said is Said.DOWN


@pytest.mark.parametrize(
    "error",
    [httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.RemoteProtocolError],
    ids=lambda kind: kind.__name__,
)
async def test_a_connection_that_breaks_after_the_request_is_lost(error: type[httpx.TransportError]) -> None:
    assert (await submitted(error("cut"))).said is Said.LOST


@given(st.integers(min_value=200, max_value=599), st.binary(max_size=40))
async def test_any_answer_has_a_meaning(status: int, body: bytes) -> None:
    assert (await submitted(httpx.Response(status, content=body))).said in {
        Said.PENDING,
        Said.BUSY,
        Said.UNPAID,
        Said.KEY_REFUSED,
        Said.BLOCKED,
        Said.DOWN,
        Said.REFUSED,
        Said.LOST,
    }


# Where a task is asked for, and with what


async def test_a_task_is_polled_at_its_polling_url() -> None:
    await fetch(other := Other(), POLL)

    assert (other.request.method, str(other.request.url)) == ("GET", POLL)
    assert other.request.headers["x-key"] == KEY


async def test_without_a_polling_url_a_task_is_polled_by_its_id() -> None:
    await fetch(other := Other())

    assert str(other.request.url) == "https://api.bfl.ai/v1/get_result?id=task-1"
    assert other.request.headers["x-key"] == KEY


async def test_a_polling_url_on_the_configured_origin_is_used_over_plain_http() -> None:
    await fetch(other := Other(), "http://twin:9000/v1/get_result?id=task-1&region=eu", "http://twin:9000")

    assert str(other.request.url) == "http://twin:9000/v1/get_result?id=task-1&region=eu"


@pytest.mark.parametrize("host", ["api.us1.bfl.ai", "gateway.bfl.ai", "API.EU4.BFL.AI", "api.bfl.ai:443"])
async def test_the_key_goes_to_every_api_host_of_bfl(host: str) -> None:
    await fetch(other := Other(), f"https://{host}/v1/get_result?id=task-1")

    assert other.request.url.host == host.lower().removesuffix(":443")


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com/v1/get_result?id=task-1",
        "https://bfl.ai/",
        "https://delivery.eu1.bfl.ai/",
        "https://delivery-eu1.bfl.ai/",
        "https://api.eu1.delivery.bfl.ai/",
        "https://evil.api.bfl.ai/",
        "https://api..bfl.ai/",
        "https://evilbfl.ai/",
        "https://bfl.ai.evil.com/",
        "https://api.bfl.ai@evil.com/",
        "https://evil.com\\@api.bfl.ai/",
        "https://evil.com#.bfl.ai",
        "http://api.bfl.ai/v1/get_result",
        "https://api.bfl.ai:8443/",
        "https://api.bfl.ai:99999/",
        "//api.bfl.ai/",
        "/v1/get_result?id=task-1",
        "https://[api.bfl.ai/",
        "https://[::1",
        "https://xn--.bfl.ai/",
        "https://api.bfl.ai/\n",
        " https://api.bfl.ai/",
        "not an address",
        "",
    ],
)
async def test_the_key_is_sent_to_no_other_host_and_the_task_is_polled_by_its_id(url: str) -> None:
    await fetch(other := Other(), url)

    assert str(other.request.url) == "https://api.bfl.ai/v1/get_result?id=task-1"


@given(st.text(alphabet="abflxn-.:@/\\?#[]%\t 01\u3002\uff0f", max_size=30))
async def test_no_polling_url_sends_the_key_to_another_host(middle: str) -> None:
    await fetch(other := Other(), f"https://{middle}.bfl.ai/")

    labels = other.request.url.host.removesuffix(".").split(".")
    assert (labels[0], labels[-2:]) == ("api", ["bfl", "ai"])
    assert other.request.url.scheme == "https"


def redirecting(*locations: str, status: int = 307) -> tuple[list[httpx.Request], httpx.MockTransport]:
    """A server that redirects to these URLs in turn, and then answers; the requests that it gets."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) <= len(locations):
            return httpx.Response(status, headers={"location": locations[len(asked) - 1]})
        return httpx.Response(200, json={"id": "task-1", "status": "Ready", "result": {"sample": SAMPLE}})

    return asked, httpx.MockTransport(answer)


async def polled(transport: httpx.MockTransport, base: str = BASE) -> ProviderResponse:
    async with provider_client(transport) as http:
        return await Bfl(http, base, KEY).fetch(Reference("task-1", None))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirected_poll_is_followed_to_the_regions_with_the_key(status: int) -> None:
    regional = ["https://api.eu.bfl.ai/v1/get_result?id=task-1", "/v1/elsewhere?id=task-1", "https://api.us4.bfl.ai/x"]
    asked, transport = redirecting(*regional, status=status)
    answer = await polled(transport)

    assert (answer.report.said, answer.http_status) == (Said.READY, 200)
    assert [str(request.url) for request in asked[1:]] == [
        regional[0],
        "https://api.eu.bfl.ai/v1/elsewhere?id=task-1",
        regional[2],
    ]
    assert {(request.method, request.headers["x-key"]) for request in asked} == {("GET", KEY)}


async def test_a_poll_follows_at_most_three_redirects() -> None:
    asked, transport = redirecting(*["https://api.eu.bfl.ai/"] * 4)
    answer = await polled(transport)

    assert len(asked) == 4
    assert (answer.report.said, answer.http_status) == (Said.LOST, 307)


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.com/",
        "https://delivery.eu1.bfl.ai/",
        "https://bfl.ai/",
        "http://api.bfl.ai/v1/get_result",
        "http://169.254.169.254/",
        "https://user@api.bfl.ai/",
        "//evil.com/",
        "ftp://api.bfl.ai/",
        "https://[",
    ],
)
async def test_a_poll_that_is_redirected_to_another_host_tells_nothing_of_the_task(location: str) -> None:
    asked, transport = redirecting(location)
    answer = await polled(transport)

    assert len(asked) == 1
    assert answer.report.said is Said.LOST


async def test_a_twin_may_redirect_on_its_own_origin_only() -> None:
    asked, transport = redirecting("/again", "http://twin:9001/")
    answer = await polled(transport, "http://twin:9000")

    assert [str(request.url) for request in asked[1:]] == ["http://twin:9000/again"]
    assert answer.report == Report(Said.LOST, detail="HTTP 307 without a task status: a redirect that is not followed")


async def test_a_submission_is_not_sent_again_to_where_it_is_redirected() -> None:
    await submit(other := Other(httpx.Response(307, headers={"location": "https://api.eu.bfl.ai/"})), order())

    assert len(other.asked) == 1


async def test_an_id_is_escaped() -> None:
    async with provider_client(httpx.MockTransport(other := Other())) as http:
        await Bfl(http, BASE, KEY).fetch(Reference("a&b=c #/\u00e9", None))

    assert other.request.url.params["id"] == "a&b=c #/\u00e9"
    assert list(other.request.url.params) == ["id"]


# What a status answer means


@pytest.mark.parametrize("status", [200, 202, 404, 422, 500, 503])
async def test_a_status_is_read_whatever_the_http_status(status: int) -> None:
    body = {"id": "task-1", "status": "Ready", "result": {"sample": SAMPLE}}

    answer = await fetch(Other(httpx.Response(status, json=body)))

    assert (answer.report.said, answer.report.sample_url, answer.http_status) == (Said.READY, SAMPLE, status)


@pytest.mark.parametrize(
    ("http_status", "body", "report"),
    [
        (404, {"id": "task-1", "status": "Task not found"}, Report(Said.NOT_FOUND, detail="Task not found")),
        (
            422,
            {"id": "task-1", "status": "Error", "result": None, "details": {"error": "bad image"}},
            Report(Said.FAILED, provider_id="task-1", failure=Failure.PROVIDER_ERROR, detail="bad image"),
        ),
        (
            503,
            {"id": "task-1", "status": "Request Moderated", "details": {"Moderation Reasons": ["NSFW"]}},
            Report(Said.FAILED, provider_id="task-1", failure=Failure.REQUEST_MODERATED, detail="NSFW"),
        ),
    ],
    ids=["not found", "error", "moderated"],
)
async def test_a_failed_task_may_come_with_an_http_error(http_status: int, body: object, report: Report) -> None:
    assert (await fetch(Other(httpx.Response(http_status, json=body)))).report == report


@pytest.mark.parametrize("status", [200, 401, 403, 404, 429, 500, 503])
async def test_an_answer_without_a_status_is_lost(status: int) -> None:
    answer = await fetch(Other(httpx.Response(status, json={"detail": "Not authenticated"})))

    redirect = ": a redirect that is not followed" if status in range(300, 400) else ""
    assert answer.report == Report(Said.LOST, detail=f"HTTP {status} without a task status{redirect}")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "body",
    [
        {"status": "error", "message": "Invalid token"},
        {"status": "failed", "error": {"message": "Internal server error", "type": "500"}},
        {"id": None, "status": "Error", "result": None},
    ],
    ids=["error", "failed", "null"],
)
async def test_an_http_error_without_a_task_id_does_not_fail_the_task(status: int, body: dict[str, Any]) -> None:
    answer = await fetch(Other(httpx.Response(status, json=body)))

    redirect = ": a redirect that is not followed" if status in range(300, 400) else ""
    assert answer.report == Report(Said.LOST, detail=f"HTTP {status} without a task status{redirect}")


@pytest.mark.parametrize("status", [200, 301, 302, 307, 401, 403, 404, 405, 429, 520, 521, 524, 530])
@pytest.mark.parametrize("page", PAGES)
async def test_a_page_of_a_gateway_ends_no_task(status: int, page: str) -> None:
    answer = await fetch(Other(httpx.Response(status, **PAGES[page])))

    redirect = ": a redirect that is not followed" if status in range(300, 400) else ""
    assert answer.report == Report(Said.LOST, detail=f"HTTP {status} without a task status{redirect}")


@pytest.mark.parametrize("status", [301, 401, 402, 403, 405, 407, 421, 429, 521, 530])
@pytest.mark.parametrize(
    "body",
    [{"id": "task-1", "status": "Error", "details": {"error": "x"}}, {"id": "task-1", "status": "Task not found"}],
    ids=["error", "not found"],
)
async def test_a_status_about_the_request_ends_no_task_whatever_the_body_says(
    status: int, body: dict[str, Any]
) -> None:
    assert (await fetch(Other(httpx.Response(status, json=body)))).report.said is Said.LOST


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_a_poll_may_be_told_when_to_come_again(status: int) -> None:
    at = clock.utc_now().replace(microsecond=0) + timedelta(minutes=1)
    answer = httpx.Response(status, text="<html>", headers={"retry-after": format_datetime(at, usegmt=True)})

    wait = (await fetch(Other(answer))).report.retry_after

    assert wait is not None
    assert timedelta(seconds=30) < wait <= timedelta(minutes=1)


async def test_a_failure_without_an_id_concerns_the_polled_task() -> None:
    answer = await fetch(Other(httpx.Response(200, json={"status": "Error", "details": {"error": "bad image"}})))

    assert answer.report == Report(Said.FAILED, failure=Failure.PROVIDER_ERROR, detail="bad image")


@pytest.mark.parametrize(
    "error", [httpx.ConnectError, httpx.ReadError, httpx.ReadTimeout], ids=lambda kind: kind.__name__
)
async def test_a_poll_without_an_answer_is_lost(error: type[httpx.TransportError]) -> None:
    answer = await fetch(Other(error("cut")))

    assert (answer.report.said, answer.http_status) == (Said.LOST, None)
    assert error.__name__ in (answer.report.detail or "")


# Whether it can be used


@pytest.mark.parametrize("status", [200, 404, 429])
async def test_a_provider_that_accepts_the_key_is_reachable(status: int) -> None:
    assert await reachable(httpx.Response(status)) is None


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_reported(status: int) -> None:
    answer = httpx.Response(status, json={"detail": "Not authenticated"})

    assert await reachable(answer) == "it refuses the API key"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("page", PAGES)
async def test_a_gateway_is_not_taken_for_a_refused_key(status: int, page: str) -> None:
    found = await reachable(httpx.Response(status, **PAGES[page]))

    assert found == f"a gateway in front of it refuses requests (HTTP {status})"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_reported_because_it_is_not_followed(status: int) -> None:
    found = await reachable(httpx.Response(status, headers={"location": "https://bfl.ai/"}))

    assert found == f"it redirects (HTTP {status}), which is not followed: this is not the base URL of its API"


async def test_an_outage_is_reported() -> None:
    assert await reachable(httpx.Response(503)) == "it answers with HTTP 503"


async def test_an_unreachable_provider_is_reported() -> None:
    assert await reachable(httpx.ConnectError("refused")) == "not reached: ConnectError"


# What it promises


def test_the_published_limits_are_data() -> None:
    assert Bfl.spec.slots == {"account": 24}


def test_a_callback_may_arrive_for_a_few_minutes() -> None:
    assert Bfl.spec.callback_window == timedelta(seconds=1 + 5 + 30 + 4 * 30)


def test_the_repr_of_a_submit_request_shows_neither_secret_nor_prompt() -> None:
    assert "s" * 64 not in repr(order())
    assert "a lake" not in repr(order())
