"""The body of a submission: JSON that is encoded in chunks."""

import json
import tracemalloc
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.provider import Bfl, Gptproto, SubmitRequest
from app.provider.request_body import RequestBody
from app.rules.task import Said
from app.security.http_clients import provider_client
from tests.pictures import in_base64

HOOK = {"webhook_url": "https://fluxhook.example.com/callbacks/sub_1/token", "webhook_secret": "s" * 64}
NO_HOOK = {"webhook_url": None, "webhook_secret": None}


def body_of(params: dict[str, Any], images: dict[str, bytes], hook: dict[str, Any]) -> RequestBody:
    return RequestBody(
        SubmitRequest("/v1/flux-kontext-pro", params, {name: BytesIO(data) for name, data in images.items()}, **hook)
    )


@given(
    prompt=st.text(),
    images=st.dictionaries(st.sampled_from(["input_image", "input_image_2"]), st.binary(max_size=9)),
    hook=st.sampled_from([HOOK, NO_HOOK]),
)
async def test_the_body_is_the_json_of_all_fields_and_has_the_stated_length(
    prompt: str, images: dict[str, bytes], hook: dict[str, Any]
) -> None:
    params = {"prompt": prompt, "seed": None, "prompt_upsampling": False}
    body = body_of(params, images, hook)

    sent = b"".join([piece async for piece in body])

    callback_requested = hook if hook is HOOK else {}
    whole = params | {name: in_base64(data) for name, data in images.items()} | callback_requested
    assert sent == json.dumps(whole).encode()
    assert body.headers == {"content-type": "application/json", "content-length": str(len(sent))}


@pytest.mark.parametrize("size", [0, 1, 98_303, 98_304, 98_305, 300_000])
async def test_an_image_of_any_length_is_one_base64_string(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    sent = b"".join([piece async for piece in body_of({"prompt": "a"}, {"input_image": data}, NO_HOOK)])

    assert json.loads(sent)["input_image"] == in_base64(data)


async def test_a_large_image_is_not_held_in_memory() -> None:
    body = body_of({"prompt": "a"}, {"input_image": bytes(20 * 1024 * 1024)}, NO_HOOK)
    tracemalloc.start()
    try:
        async for _ in body:
            pass
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


class Cutting(httpx.AsyncBaseTransport):
    """A connection that fails after a given number of chunks of the body."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        left = self._pieces
        async for _ in request.stream:
            left -= 1
            if left == 0:
                raise httpx.ReadError("gone")
        raise AssertionError("it had fewer pieces")


@pytest.mark.parametrize("adapter", [Bfl, Gptproto])
@pytest.mark.parametrize(("pieces", "said"), [(1, Said.DOWN), (2, Said.DOWN), (4, Said.DOWN), (5, Said.LOST)])
async def test_an_incomplete_request_was_not_accepted(
    adapter: type[Bfl] | type[Gptproto], pieces: int, said: Said
) -> None:
    order = SubmitRequest("/v1/flux-kontext-pro", {"prompt": "a"}, {"input_image": BytesIO(b"an image")}, **HOOK)
    async with provider_client(Cutting(pieces)) as http:
        answer = await adapter(http, "https://provider.example", "key").submit(order)

    assert answer.report.said is said


class Impatient(httpx.AsyncBaseTransport):
    """A gateway that answers with a status after a given number of chunks of the body."""

    def __init__(self, pieces: int, status: int) -> None:
        self._pieces, self._status = pieces, status

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        pieces = request.stream.__aiter__()
        for _ in range(self._pieces):
            await anext(pieces)
        return httpx.Response(self._status, text="<html>")


@pytest.mark.parametrize("status", [408, 504, 520, 524])
@pytest.mark.parametrize(("pieces", "said"), [(2, Said.DOWN), (5, Said.LOST)])
async def test_a_gateway_that_answers_before_the_end_of_the_request_has_not_passed_it_on(
    pieces: int, said: Said, status: int
) -> None:
    order = SubmitRequest("/v1/flux-kontext-pro", {"prompt": "a"}, {"input_image": BytesIO(b"an image")}, **HOOK)
    async with provider_client(Impatient(pieces, status)) as http:
        answer = await Bfl(http, "https://provider.example", "key").submit(order)

    assert (answer.report.said, answer.http_status) == (said, status)


async def test_a_complete_request_may_have_been_accepted_if_its_response_is_lost() -> None:
    order = SubmitRequest("/v1/flux-kontext-pro", {"prompt": "a"}, {}, **HOOK)
    async with provider_client(Cutting(1)) as http:
        answer = await Bfl(http, "https://provider.example", "key").submit(order)

    assert answer.report.said is Said.LOST


async def test_images_of_one_member_are_a_list() -> None:
    images = {"images[0]": b"one", "images[1]": b"two", "mask": b"three"}
    order = SubmitRequest("/v1/m", {"prompt": "a"}, {name: BytesIO(data) for name, data in images.items()}, None, None)
    body = RequestBody(order)
    sent = b"".join([chunk async for chunk in body])

    assert json.loads(sent) == {"prompt": "a", "images": ["b25l", "dHdv"], "mask": "dGhyZWU="}
    assert body.headers["content-length"] == str(len(sent))


async def test_one_image_of_a_list_and_no_parameter_at_all_are_valid_json() -> None:
    one = RequestBody(SubmitRequest("/v1/m", {"a": 1}, {"images[0]": BytesIO(b"one")}, **HOOK))
    empty = RequestBody(SubmitRequest("/v1/m", {}, {}, None, None))

    assert json.loads(b"".join([chunk async for chunk in one]))["images"] == ["b25l"]
    assert b"".join([chunk async for chunk in empty]) == b"{}"
