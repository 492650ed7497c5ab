"""Large JSON bodies: nothing is lost at any chunk boundary, and little is held in memory."""

import base64
import json
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import FluxhookError, InvalidRequest, MalformedRequest, TooLarge
from app.params import IMAGE_FIELDS
from app.web.large_json import Sieve
from tests.pictures import in_base64, padded
from tests.web.documents import problem
from tests.world import World

MB = 1024 * 1024
BYTES = bytes(range(256)) * 200


def sifted(body: bytes, folder: Path, cuts: int = 1) -> tuple[bytes, dict[str, bytes]]:
    """Return the remainder and the images of a body that arrives in this many pieces."""
    sieve = Sieve(folder)
    length = len(body) // cuts + 1
    try:
        for start in range(0, len(body), length):
            sieve.feed(body[start : start + length])
        for file in sieve.files.values():
            file.seek(0)
        return sieve.rest(), {field: file.read() for field, file in sieve.files.items()}
    finally:
        sieve.close()


TEXTS = st.text(max_size=20)
VALUES = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(
    others=st.dictionaries(TEXTS | st.just("prompt"), VALUES, max_size=5),
    images=st.dictionaries(st.sampled_from(IMAGE_FIELDS), st.integers(12_300, 40_000), max_size=3),
    cuts=st.integers(1, 400),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # its file is written anew by each example
def test_images_and_remainder_together_are_the_sent_body(
    tmp_path: Path, others: dict[str, Any], images: dict[str, int], cuts: int, *, ascii_only: bool, indent: int | None
) -> None:
    kept = {field: BYTES[:size] for field, size in images.items()}
    body = {**others, **{field: in_base64(data) for field, data in kept.items()}}
    text = json.dumps(body, ensure_ascii=ascii_only, indent=indent).replace("/", r"\/")

    rest, found = sifted(text.encode("utf-8", "surrogatepass"), tmp_path, cuts)

    assert found == kept
    assert json.loads(rest) == {**others, **dict.fromkeys(kept)}


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(lambda text: f"data:image/png;base64,{text}", id="data URL"),
        pytest.param(lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)), id="lines"),
        pytest.param(lambda text: text.replace("A", "\n A"), id="blanks"),
    ],
)
@pytest.mark.parametrize("cuts", [1, 7, 30_000])
def test_an_image_may_be_written_in_any_of_its_forms(tmp_path: Path, written: Any, cuts: int) -> None:
    body = json.dumps({"input_image": written(in_base64(BYTES)), "prompt": "a fox"}).encode()

    assert sifted(body, tmp_path, cuts) == (b'{"input_image": null, "prompt": "a fox"}', {"input_image": BYTES})


def test_letters_written_as_escapes_are_read_wherever_they_are_cut(tmp_path: Path) -> None:
    text = "".join(f"\\u{ord(letter):04x}" for letter in in_base64(BYTES))
    body = b'{"input\\u005fimage": "' + text.encode() + b'"}'

    for cuts in (1, 997, 9973):
        assert sifted(body, tmp_path, cuts)[1] == {"input_image": BYTES}


def test_only_members_of_the_object_itself_are_images(tmp_path: Path) -> None:
    long = "A" * 20_000
    body = json.dumps({"x": {"input_image": long}, "y": ["input_image", long], "input_image": 1, "z": long}).encode()

    assert sifted(body, tmp_path) == (body, {})


def test_a_long_url_is_not_an_image(tmp_path: Path) -> None:
    body = json.dumps({"input_image": "HTTPS://" + "a" * 20_000}).encode()

    assert sifted(body, tmp_path) == (body, {})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (in_base64(BYTES)[:-2], InvalidRequest),
        (in_base64(BYTES)[:20_000] + "?" + in_base64(BYTES)[20_000:], InvalidRequest),
        (in_base64(BYTES)[:20_000] + "\u00e9" + in_base64(BYTES)[20_001:], InvalidRequest),
        (in_base64(BYTES[:15_001]) + in_base64(BYTES), InvalidRequest),
        ("data:image/png;base64;" + in_base64(BYTES), InvalidRequest),
        ("data:image/png," + in_base64(BYTES), InvalidRequest),
    ],
    ids=["cut", "sign", "letter", "two", "no comma", "no base64"],
)
@pytest.mark.parametrize("cuts", [1, 11])
def test_invalid_base64_is_refused(tmp_path: Path, text: str, error: type[FluxhookError], cuts: int) -> None:
    with pytest.raises(error):
        sifted(json.dumps({"input_image": text}).encode(), tmp_path, cuts)


def test_a_line_break_that_json_does_not_allow_is_malformed(tmp_path: Path) -> None:
    body = b'{"input_image": "' + b"A" * 20_000 + b"\n" + b'"}'

    with pytest.raises(MalformedRequest):
        sifted(body, tmp_path)


@pytest.mark.check  # takes seconds
@pytest.mark.parametrize("body", [b'{"prompt": "' + b"x" * MB, b"[" * (MB + 1), b'{"input_image_5": "' + b"A" * MB])
def test_a_large_remainder_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(TooLarge):
        sifted(body, tmp_path)


def test_a_large_image_is_not_held_in_memory(tmp_path: Path) -> None:
    body = BytesIO(json.dumps({"input_image": in_base64(bytes(4 * MB))}).encode())
    sieve = Sieve(tmp_path)
    tracemalloc.start()
    try:
        while piece := body.read(64 * 1024):
            sieve.feed(piece)
        assert tracemalloc.get_traced_memory()[1] < MB
    finally:
        tracemalloc.stop()
        sieve.close()


@pytest.mark.parametrize("door", ["/v1/tasks", "/v1/flux-kontext-pro"])
async def test_a_large_image_reaches_the_store_through_both_apis(world: World, door: str) -> None:
    image = padded(300_000)

    answer = await world.api.post(door, json={"prompt": "a fox", "input_image": in_base64(image)})

    (kept,) = (await world.task(answer.json()["id"]))["params"]["images"]
    assert kept["bytes"] == len(image)


@pytest.mark.parametrize("door", ["/v1/tasks", "/v1/flux-kontext-pro"])
@pytest.mark.parametrize("second", [base64.b64encode(bytes(50_000)).decode(), "QUJD"])
async def test_an_image_that_is_given_twice_is_refused(world: World, door: str, second: str) -> None:
    first = in_base64(padded(100_000))
    body = f'{{"prompt": "a fox", "input_image": "{first}", "input_image": "{second}"}}'

    answer = await world.api.post(door, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 422
    assert answer.json()["fields"] == {"input_image": "given more than once"}


async def test_a_large_request_sent_again_with_its_key_is_the_same_request(world: World) -> None:
    body = {"prompt": "a fox", "input_image": in_base64(padded(100_000))}
    first, again = [await world.api.post("/v1/tasks", json=body, headers={"idempotency-key": "k"}) for _ in range(2)]

    assert first.json()["id"] == again.json()["id"]
