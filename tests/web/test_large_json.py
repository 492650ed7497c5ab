"""Large JSON bodies: their images go to files, the remainder is what was sent, and memory is bounded."""

import json
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.catalog import shipped_catalog
from app.errors import FluxhookError, InvalidRequest, MalformedRequest, TooLarge
from app.store import DiskReserve, Uploads
from app.store.uploads import SMALL
from app.web.large_json import read_json
from tests.pictures import in_base64, padded
from tests.world import World

MB = 1024 * 1024
BYTES = bytes(range(256)) * 200
IMAGE_FIELDS = shipped_catalog().model("flux-kontext-pro").images.members
APIS = ["/v1/tasks", "/v1/flux-kontext-pro"]


def request(body: bytes, piece: int) -> Request:
    """Return a request whose body arrives in pieces of this many bytes."""

    async def pieces() -> AsyncGenerator[dict[str, Any]]:
        for start in range(0, len(body), piece):
            yield {"type": "http.request", "body": body[start : start + piece], "more_body": True}
        yield {"type": "http.request"}

    return Request({"type": "http", "headers": []}, pieces().__anext__)


async def separated(body: bytes, folder: Path, piece: int = 100_000) -> tuple[bytes, dict[str, bytes]]:
    """Return the remainder and the images of a body."""
    async with AsyncExitStack() as stack:
        rest, files = await read_json(request(body, piece), shipped_catalog(), Uploads(folder, DiskReserve({})), stack)
        for file in files.values():
            file.seek(0)
        return rest, {field: file.read() for field, file in files.items()}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(
    others=st.dictionaries(TEXTS | st.just("prompt"), VALUES, max_size=5),
    images=st.dictionaries(st.sampled_from(IMAGE_FIELDS), st.integers(12_300, 50_000), min_size=1, max_size=3),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # its files have no names
async def test_images_and_remainder_together_are_the_sent_body(
    tmp_path: Path, others: dict[str, Any], images: dict[str, int], *, ascii_only: bool, indent: int | None
) -> None:
    sent = {field: BYTES[:size] for field, size in images.items()}
    body = {**others, **{field: in_base64(data) for field, data in sent.items()}}
    text = json.dumps(body, ensure_ascii=ascii_only, indent=indent).replace("/", r"\/")

    rest, found = await separated(text.encode() + b" " * SMALL, tmp_path, 50_000)

    assert found == sent
    assert json.loads(rest) == {**others, **dict.fromkeys(sent)}


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda text: f"data:image/png;base64,{text}", id="data URL"),
        pytest.param(lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)), id="lines"),
        pytest.param(lambda text: text.replace("A", "\n A"), id="blanks"),
        pytest.param(lambda text: text[:-4] + "    " + text[-4:], id="spaces at the end"),
    ],
)
@pytest.mark.parametrize("piece", [100, 1_000_000])
async def test_an_image_may_be_written_in_any_of_its_forms(tmp_path: Path, written: Any, piece: int) -> None:
    body = json.dumps({"input_image": written(in_base64(BYTES)), "prompt": "a fox"}).encode()

    rest, found = await separated(body, tmp_path, piece)

    assert (json.loads(rest), found) == ({"input_image": None, "prompt": "a fox"}, {"input_image": BYTES})


async def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    body = json.dumps({"input_image": in_base64(BYTES)})

    assert await separated(body.encode("utf-8-sig"), tmp_path) == (b'{"input_image":null}', {"input_image": BYTES})


async def test_only_members_of_the_object_itself_are_images(tmp_path: Path) -> None:
    long = "A" * 50_000
    body = {"x": {"input_image": long}, "y": ["input_image", long], "input_image": 1, "z": long}

    rest, found = await separated(json.dumps(body).encode(), tmp_path)

    assert (json.loads(rest), found) == (body, {})


async def test_a_long_url_is_not_an_image(tmp_path: Path) -> None:
    body = {"input_image": "HTTPS://" + "a" * 80_000}

    rest, found = await separated(json.dumps(body).encode(), tmp_path)

    assert (json.loads(rest), found) == (body, {})


@pytest.mark.parametrize(
    "text",
    [
        in_base64(BYTES)[:-2],
        in_base64(BYTES)[:20_000] + "?" + in_base64(BYTES)[20_000:],
        in_base64(BYTES)[:20_000] + "\u00e9" + in_base64(BYTES)[20_001:],
        in_base64(BYTES[:15_001]) + in_base64(BYTES),
        "data:image/png;base64;" + in_base64(BYTES),
        "data:image/png," + in_base64(BYTES),
    ],
    ids=["cut", "sign", "letter", "two", "no comma", "no base64"],
)
async def test_invalid_base64_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await separated(json.dumps({"input_image_2": text}).encode(), tmp_path)

    assert list(refused.value.fields) == ["input_image_2"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(b'{"input_image": "' + b"A" * 80_000 + b'\n"}', MalformedRequest, id="a line break in a text"),
        pytest.param(b'{"input_image": "' + b"A" * 80_000, MalformedRequest, id="no end"),
        pytest.param(b'{"input_image": "' + b"A" * 80_000 + b'"} x', MalformedRequest, id="more behind it"),
        pytest.param('{"prompt": "x"}'.encode("utf-16") + b" \0" * 40_000, MalformedRequest, id="UTF-16"),
        pytest.param(b"[" * 80_000, MalformedRequest, id="deep lists"),
        pytest.param(b'{"prompt": "' + b"x" * (MB + 1) + b'"}', TooLarge, id="a long prompt"),
        pytest.param(b'{"input_image_9": "' + b"A" * (MB + 1) + b'"}', TooLarge, id="a long text of another name"),
        pytest.param(b"[" + b"[]," * 200_000 + b"[]]", TooLarge, id="very many values"),
    ],
)
async def test_a_body_that_breaks_a_rule_is_refused(tmp_path: Path, body: bytes, error: type[FluxhookError]) -> None:
    with pytest.raises(error):
        await separated(body, tmp_path)


@pytest.mark.parametrize("mark", [b"[],", b"{},", b'{"a":'])
async def test_a_body_of_very_many_values_takes_little_memory(tmp_path: Path, mark: bytes) -> None:
    body = b"[" + mark * (8 * MB // len(mark)) + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            await separated(body, tmp_path, MB)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("api", APIS)
async def test_a_large_image_reaches_the_store_through_both_apis(world: World, api: str) -> None:
    image = padded(300_000)

    answer = await world.api.post(api, json={"prompt": "a fox", "input_image": in_base64(image)})

    (kept,) = (await world.task(answer.json()["id"]))["params"]["images"]
    assert kept["bytes"] == len(image)


@pytest.mark.parametrize("api", APIS)
async def test_a_large_body_with_a_wrong_member_names_that_member(world: World, api: str) -> None:
    answer = await world.api.post(
        api, json={"prompt": "a fox", "input_image": in_base64(padded(100_000)), "aspect_ratio": "1:99"}
    )

    assert answer.status_code == 422
    assert list(answer.json()["fields"]) == ["aspect_ratio"]


async def test_a_large_request_sent_again_with_its_key_is_the_same_request(world: World) -> None:
    body = {"prompt": "a fox", "input_image": in_base64(padded(100_000))}
    first, again = [await world.api.post("/v1/tasks", json=body, headers={"idempotency-key": "k"}) for _ in range(2)]

    assert first.json()["id"] == again.json()["id"]
