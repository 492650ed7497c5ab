"""Bodies of a task: JSON, multipart as curl and browsers send it, and invalid ones."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from app.catalog import shipped_catalog
from app.params import OPTIONS
from tests.pictures import in_base64, padded, photo, picture
from tests.web.documents import kept_files, nothing_recorded, problem
from tests.world import World

PNG = picture()
MB = 1024 * 1024
PROMPT = b'content-disposition: form-data; name="prompt"\r\n\r\na red fox'
FILE = b'content-disposition: form-data; name="input_image"; filename="fox.png"\r\n\r\n'
BOUNDARY = "multipart/form-data; boundary=b"


async def refused(world: World, status: int, content: Any, content_type: str) -> dict[str, Any]:
    """Post this body; return its error document, and check that nothing was recorded."""
    answer = await world.api.post("/v1/tasks", content=content, headers={"content-type": content_type})
    found = problem(answer, status)
    assert await nothing_recorded(world)
    assert kept_files(world) == []
    return found


async def refused_json(world: World, status: int, content: Any) -> dict[str, Any]:
    return await refused(world, status, content, "application/json")


async def post_form(world: World, *parts: bytes, closed: bool = True, content_type: str = BOUNDARY) -> httpx.Response:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + (b"--b--\r\n" if closed else b"")
    return await world.api.post("/v1/tasks", content=body, headers={"content-type": content_type})


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="half an object"),
        pytest.param(b'{"prompt": "x"} x', id="more behind it"),
        pytest.param(b'{"prompt": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"prompt": "\\ud800"}', id="a lone surrogate"),
        pytest.param(b'{"\\udfff": 1}', id="a lone surrogate for a name"),
        pytest.param(b'{"a":' * 50_000, id="deep objects"),
        pytest.param(b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep lists"),
        pytest.param(b'{"prompt": "x", "seed": NaN}x', id="NaN and more"),
    ],
)
async def test_invalid_json_is_malformed(world: World, content: bytes) -> None:
    found = await refused_json(world, 400, content)

    assert found["detail"] == "the body is not valid JSON"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-kontext-pro", "/v1/keys"])
async def test_json_in_another_encoding_than_utf8_is_refused_by_name(world: World, path: str, codec: str) -> None:
    content = '{"prompt": "x", "name": "x"}'.encode(codec)
    answer = await world.api.post(path, content=content, headers={"content-type": "application/json"})

    assert "must be UTF-8, not UTF-16" in problem(answer, 400, "malformed_request")["detail"]


@pytest.mark.parametrize(
    "image", [None, in_base64(PNG), in_base64(padded(100_000))], ids=["no image", "small", "large"]
)
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-kontext-pro"])
async def test_json_with_a_byte_order_mark_is_taken(world: World, path: str, image: str | None) -> None:
    content = json.dumps({"prompt": "ein F\u00fcchslein", "input_image": image}, ensure_ascii=False).encode("utf-8-sig")
    answer = await world.api.post(path, content=content, headers={"content-type": "application/json"})
    task = await world.task(answer.json()["id"])

    assert task["params"]["prompt"] == "ein F\u00fcchslein"
    assert len(task["params"]["images"]) == (image is not None)


async def test_every_json_body_may_have_a_byte_order_mark(world: World) -> None:
    headers = {"content-type": "application/json"}
    answer = await world.api.post("/v1/keys", content=b'\xef\xbb\xbf{"name": "shop"}', headers=headers)

    assert answer.status_code == 201


@pytest.mark.parametrize("content", [b"null", b"[]", b'"x"', b"1", b"true"], ids=lambda content: content.decode())
async def test_json_that_is_not_an_object_is_refused(world: World, content: bytes) -> None:
    assert (await refused_json(world, 422, content))["fields"] == {"body": "must be a JSON object"}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        pytest.param(b"{}", "prompt", id="no prompt"),
        pytest.param(b'{"prompt": null}', "prompt", id="prompt null"),
        pytest.param(b'{"prompt": 5}', "prompt", id="prompt a number"),
        pytest.param(b'{"prompt": " \\n "}', "prompt", id="prompt blank"),
        pytest.param(b'{"prompt": "a\\u0000b"}', "prompt", id="prompt with NUL"),
        pytest.param(b'{"prompt": "' + b"x" * 65_537 + b'"}', "prompt", id="prompt too long"),
        pytest.param(b'{"prompt": "x", "seed": "5"}', "seed", id="seed a text"),
        pytest.param(b'{"prompt": "x", "seed": 5.0}', "seed", id="seed a float"),
        pytest.param(b'{"prompt": "x", "seed": 1e3}', "seed", id="seed in scientific form"),
        pytest.param(b'{"prompt": "x", "seed": true}', "seed", id="seed a bool"),
        pytest.param(b'{"prompt": "x", "seed": NaN}', "seed", id="seed NaN"),
        pytest.param(b'{"prompt": "x", "seed": 18446744073709551616}', "seed", id="seed too large"),
        pytest.param(b'{"prompt": "x", "seed": -9223372036854775809}', "seed", id="seed too small"),
        pytest.param(b'{"prompt": "x", "seed": ' + b"9" * 4000 + b"}", "seed", id="seed huge"),
        pytest.param(b'{"prompt": "x", "safety_tolerance": 7}', "safety_tolerance", id="tolerance 7"),
        pytest.param(b'{"prompt": "x", "safety_tolerance": -1}', "safety_tolerance", id="tolerance -1"),
        pytest.param(b'{"prompt": "x", "safety_tolerance": "2"}', "safety_tolerance", id="tolerance a text"),
        pytest.param(b'{"prompt": "x", "prompt_upsampling": 1}', "prompt_upsampling", id="upsampling a number"),
        pytest.param(b'{"prompt": "x", "prompt_upsampling": "true"}', "prompt_upsampling", id="upsampling a text"),
        pytest.param(b'{"prompt": "x", "aspect_ratio": "22:9"}', "aspect_ratio", id="ratio too wide"),
        pytest.param(b'{"prompt": "x", "aspect_ratio": "9:22"}', "aspect_ratio", id="ratio too high"),
        pytest.param(b'{"prompt": "x", "aspect_ratio": "16:9\\n"}', "aspect_ratio", id="ratio with a line end"),
        pytest.param(b'{"prompt": "x", "output_format": "gif"}', "output_format", id="format unknown"),
        pytest.param(b'{"prompt": "x", "model": 2}', "model", id="model a number"),
        pytest.param(b'{"prompt": "x", "model": "flux-2-pro", "input_image": [""]}', "input_image", id="a list"),
        pytest.param(b'{"prompt": "x", "model": "flux-3-image", "images": []}', "images", id="images empty"),
        pytest.param(b'{"prompt": "x", "model": "flux-3-image", "images": ["", 7]}', "images[0]", id="image blank"),
        pytest.param(b'{"prompt": "x", "model": "flux-3-image", "images": [7]}', "images[0]", id="image a number"),
        pytest.param(b'{"prompt": "x", "input_image": ["a"]}', "input_image", id="image a list"),
        pytest.param(b'{"prompt": "x", "input_image": ""}', "input_image", id="image empty"),
        pytest.param(b'{"prompt": "x", "webhook_url": "http://x"}', "webhook_url", id="unknown field"),
        pytest.param(b'{"prompt": "x", "model": "flux-3-image", "query": 1}', "query", id="unknown field called query"),
        pytest.param(b'{"prompt": "x", "model": "flux-3-image", "body": 1}', "body", id="unknown field called body"),
        pytest.param(b'{"prompt": "x", "model": "flux-3-image", "<b>": 1}', "<b>", id="unknown field of HTML"),
        pytest.param(b'{"prompt": "x", "' + b"k" * 5000 + b'": 1}', "k" * 100, id="unknown field with a long name"),
    ],
)
async def test_a_wrong_field_is_named_and_its_value_is_not_repeated(world: World, content: bytes, field: str) -> None:
    found = await refused_json(world, 422, content)

    assert list(found["fields"]) == [field]
    assert len(found["detail"]) < 300


async def test_thousands_of_unknown_fields_get_a_short_answer(world: World) -> None:
    content = b'{"prompt": "x", ' + b", ".join(b'"k%d": 1' % number for number in range(5000)) + b"}"

    found = await refused_json(world, 422, content)

    assert found["fields"] == {"k32": "unknown field: at most 32 unknown fields of together 8 KB are passed on"}


async def test_a_model_that_is_not_served_is_refused_with_those_that_are(world: World) -> None:
    found = await refused_json(world, 422, b'{"prompt": "x", "model": "flux-9"}')

    assert "flux-9 is not in the catalog; served are flux-kontext-pro, " in found["fields"]["model"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json, text/plain", 415),
        ("multipart/mixed; boundary=b", 415),
        ("\xff/\xfe", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "b" * 5000, 400),
    ],
    ids=lambda value: str(value)[:40].encode("unicode_escape").decode() or "none",
)
async def test_a_body_of_another_type_is_refused(world: World, content_type: str, status: int) -> None:
    answer = await world.api.post(
        "/v1/tasks", content=b'{"prompt": "x"}', headers=[(b"content-type", content_type.encode("latin-1"))]
    )

    problem(answer, status)


async def test_a_compressed_body_is_refused(world: World) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await world.api.post("/v1/tasks", content=b"\x1f\x8b", headers=headers)

    problem(answer, 415)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/vnd.api+json", "Application/JSON"]
)
async def test_other_media_types_of_json_are_accepted(world: World, content_type: str) -> None:
    answer = await world.api.post("/v1/tasks", content=b'{"prompt": "x"}', headers={"content-type": content_type})

    assert answer.status_code == 202


async def in_pieces(start: bytes, size: int) -> AsyncGenerator[bytes]:
    yield start
    for _ in range(size // MB):
        yield bytes(MB)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize(
    ("content_type", "start", "size"),
    [
        pytest.param("application/json", b"{", 40 * MB, id="JSON"),
        pytest.param(BOUNDARY, b"--b\r\n" + FILE, 90 * MB, id="multipart"),
    ],
)
async def test_a_body_past_the_limit_is_refused_before_it_is_parsed(
    world: World, announced: bool, content_type: str, start: bytes, size: int
) -> None:
    headers = {"content-type": content_type} | ({"content-length": str(size)} if announced else {})
    answer = await world.api.post("/v1/tasks", content=in_pieces(start, size), headers=headers)

    problem(answer, 413, "too_large")
    assert await nothing_recorded(world)


async def test_the_texts_of_a_form_are_parsed_into_values(world: World) -> None:
    given = {"prompt": "ein Füchslein", "seed": "5", "prompt_upsampling": "true", "safety_tolerance": "0"}
    answer = await world.api.post("/v1/tasks", data=given, files={"input_image": ("fox.png", PNG, "image/png")})

    params = answer.json()["params"]
    assert answer.status_code == 202
    assert {name: params[name] for name in given} == {
        "prompt": "ein Füchslein",
        "seed": 5,
        "prompt_upsampling": True,
        "safety_tolerance": 0,
    }


async def test_an_image_in_a_form_may_also_be_a_text(world: World) -> None:
    answer = await world.api.post("/v1/tasks", files={"prompt": (None, "x"), "input_image": (None, in_base64(PNG))})

    assert len(answer.json()["params"]["images"]) == 1


def part(name: str, content: bytes, disposition: str = "") -> bytes:
    return f'content-disposition: form-data; name="{name}"{disposition}\r\n\r\n'.encode() + content


@pytest.mark.parametrize(
    "disposition",
    ["", "; filename*=UTF-8''f%C3%BCchslein.png", "; filename=\"fox.png\"; filename*=UTF-8''fox.png"],
    ids=["no file name", "extended file name alone", "both file names"],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_an_image_is_taken_as_a_file_whatever_its_file_name(world: World, form: str, disposition: str) -> None:
    image = photo(form)
    answer = await post_form(world, PROMPT, part("input_image", image, disposition))

    assert answer.status_code == 202, answer.text
    assert kept_files(world)[0].read_bytes() == image


async def test_an_image_without_a_file_name_may_be_as_large_as_any_other(world: World) -> None:
    answer = await post_form(world, PROMPT, part("input_image", padded(20 * MB)), part("input_image_2", PNG))

    assert [image["bytes"] for image in answer.json()["params"]["images"]] == [20 * MB, len(PNG)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not supported: convert it to JPEG, PNG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported: convert it to JPEG, PNG or WebP"),
        (b"\xfe\xed\xfa\xce", "not a JPEG, PNG or WebP image"),
        (b"no picture", "not valid base64"),
        (b"A" * 2000 + b"\xff", "not a JPEG, PNG or WebP image"),
        (b"QUJD" * (MB // 2), "more than 1 MB of text: send the image as a file"),
    ],
    ids=["HEIC", "SVG", "other bytes", "text", "bytes behind text", "large text"],
)
async def test_an_image_without_a_file_name_is_refused_for_what_it_is(
    world: World, content: bytes, reason: str
) -> None:
    answer = await post_form(world, PROMPT, part("input_image", content))

    assert problem(answer, 422)["fields"] == {"input_image": reason}
    assert await nothing_recorded(world)


@pytest.mark.parametrize(
    "preamble",
    [b"\r\n", b"This is a message with multiple parts.\r\n", b"--c\r\n a--b\r\n", b"x" * 60_000 + b"\r\n"],
    ids=["empty line", "sentence", "other boundaries", "long"],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_text_before_the_first_boundary_is_skipped(world: World, preamble: bytes, size: int) -> None:
    body = preamble + b"--b\r\n" + PROMPT + b"\r\n--b\r\n" + FILE + PNG + b"\r\n--b--\r\nan epilogue"

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    answer = await world.api.post("/v1/tasks", content=pieces(), headers={"content-type": BOUNDARY})

    assert answer.status_code == 202, answer.text
    assert len(answer.json()["params"]["images"]) == 1


async def test_a_form_without_its_boundary_is_refused_early(world: World) -> None:
    answer = await world.api.post("/v1/tasks", content=in_pieces(b"x", 2 * MB), headers={"content-type": BOUNDARY})

    assert "it does not start with its boundary" in problem(answer, 400)["detail"]


OPTIONAL = sorted({*OPTIONS, *shipped_catalog().model("flux-kontext-pro").properties} - {"prompt"})


@pytest.mark.parametrize("content", [b"", b" "], ids=["empty", "blank"])
async def test_a_form_field_that_is_not_filled_in_counts_as_absent(world: World, content: bytes) -> None:
    answer = await post_form(world, PROMPT, *(part(name, content) for name in OPTIONAL))

    assert answer.status_code == 202, answer.text
    task = answer.json()
    assert (task["params"]["images"], task["params"]["seed"], task["webhook"], task["warnings"]) == ([], None, None, [])


async def test_an_empty_prompt_in_a_form_is_refused(world: World) -> None:
    assert problem(await post_form(world, part("prompt", b"")), 422)["fields"] == {"prompt": "must not be blank"}


async def test_a_file_input_that_a_browser_sends_empty_is_ignored(world: World) -> None:
    empty = b'content-disposition: form-data; name="input_image%s"; filename=""\r\ncontent-type: image/png\r\n\r\n'
    answer = await post_form(world, PROMPT, *[empty % number for number in (b"", b"_2", b"_3", b"_4")])

    assert answer.status_code == 202
    assert answer.json()["params"]["images"] == []


@pytest.mark.parametrize(
    "given",
    [["stored,submitted"], ["submitted", "stored"], ["submitted", " stored , submitted"], ["submitted", "", "stored"]],
)
async def test_a_list_in_a_form_is_a_part_for_each_name_or_one_with_commas(world: World, given: list[str]) -> None:
    fields = {"prompt": "x", "webhook_url": "https://app.example.com/hook", "webhook_events": given}
    answer = await world.api.post("/v1/tasks", data=fields, files={"input_image": PNG})

    assert answer.status_code == 202, answer.text
    assert answer.json()["webhook"]["events"] == ["stored", "submitted"]


@pytest.mark.parametrize("given", [["stored", "painted"], ["stored,painted"]])
async def test_an_invalid_name_in_a_list_is_refused_at_any_position(world: World, given: list[str]) -> None:
    answer = await world.api.post(
        "/v1/tasks", data={"prompt": "x", "webhook_events": given}, files={"input_image": PNG}
    )

    assert list(problem(answer, 422)["fields"]) == ["webhook_events.1"]
    assert await nothing_recorded(world)


async def test_a_page_that_is_named_png_is_refused_by_its_bytes(world: World) -> None:
    answer = await world.api.post(
        "/v1/tasks", data={"prompt": "x"}, files={"input_image": ("fox.png", b"<html></html>", "image/png")}
    )

    assert problem(answer, 422)["fields"] == {"input_image": "not a JPEG, PNG or WebP image"}
    assert await nothing_recorded(world)
    assert kept_files(world) == []


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        pytest.param([PROMPT, PROMPT], 422, "prompt: given more than once", id="a field twice"),
        pytest.param(
            [PROMPT, b'content-disposition: form-data; name="prompt"; filename="p"\r\n\r\nx'],
            422,
            "prompt: given more than once",
            id="a field and a file",
        ),
        pytest.param(
            [b'content-disposition: form-data; name="prompt"; filename="p"\r\n\r\nx'],
            422,
            "prompt: must not be a file",
            id="a file for a text",
        ),
        pytest.param(
            [PROMPT, b'content-disposition: form-data; name="colour"\r\n\r\n' + b"red" * 4000],
            422,
            "colour: unknown field",
            id="a long unknown field",
        ),
        pytest.param(
            [PROMPT, b'content-disposition: form-data; name="seed"\r\n\r\nfive'], 422, "seed: ", id="a wrong number"
        ),
        pytest.param(
            [b'content-disposition: form-data; name="prompt"\r\n\r\na\0b'], 422, "NUL", id="NUL in the prompt"
        ),
        pytest.param([b"content-disposition: form-data\r\n\r\nx"], 400, "name", id="a part without a name"),
        pytest.param([b"x: y\r\n\r\nx"], 400, "name", id="a part without a disposition"),
        pytest.param([b"no header\r\n\r\nx"], 400, "cannot be read", id="a part without headers"),
        pytest.param(
            [PROMPT, *[b'content-disposition: form-data; name="a%d"; filename="a"\r\n\r\nx' % n for n in range(11)]],
            400,
            "Too many files",
            id="eleven files",
        ),
        pytest.param(
            [b'content-disposition: form-data; name="a%d"\r\n\r\nx' % n for n in range(41)],
            400,
            "Too many fields",
            id="41 fields",
        ),
        pytest.param(
            [b'content-disposition: form-data; name="prompt"\r\n\r\n' + b"x" * (MB + 1)],
            400,
            "exceeded maximum size",
            id="a text of more than a megabyte",
        ),
    ],
)
async def test_a_form_that_breaks_a_rule_is_refused(world: World, parts: list[bytes], status: int, words: str) -> None:
    assert words in problem(await post_form(world, *parts), status)["detail"]
    assert await nothing_recorded(world)


async def test_a_form_that_ends_within_a_file_makes_no_task_without_that_file(world: World) -> None:
    answer = await post_form(world, PROMPT, FILE + PNG[:100], closed=False)

    assert problem(answer, 400)["detail"] == "the multipart body cannot be read: it ends before its closing boundary"
    assert await nothing_recorded(world)


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "unicode_escape", "utf-16", "no-such", '"utf-8"'])
async def test_text_in_a_form_is_utf8_whatever_charset_it_declares(world: World, charset: str) -> None:
    text = r'content-disposition: form-data; name="prompt"' + "\r\n\r\n" + r"ein Füchslein \ud800"
    answer = await post_form(world, text.encode(), content_type=f"multipart/form-data; charset={charset}; boundary=b")

    assert answer.status_code == 202
    assert answer.json()["params"]["prompt"] == r"ein Füchslein \ud800"


@pytest.mark.parametrize(
    "names", [["images", "images"], ["images[]", "images[]"], ["images[0]", "images[1]"]], ids=repr
)
async def test_a_list_of_images_in_a_form_is_a_part_for_each(world: World, names: tuple[str, str]) -> None:
    parts = [part(name, data, '; filename="a"') for name, data in zip(names, (PNG, photo()), strict=True)]
    answer = await post_form(world, PROMPT, part("model", b"flux-3-image"), *parts)

    assert answer.status_code == 202, answer.text
    assert [image["field"] for image in answer.json()["params"]["images"]] == ["images[0]", "images[1]"]


@pytest.mark.parametrize("name", ["images", "images[]"])
async def test_one_image_in_a_form_is_a_list_too(world: World, name: str) -> None:
    text, file = part(name, in_base64(PNG).encode()), part(name, PNG, '; filename="a"')
    for image in (text, file):
        answer = await post_form(world, PROMPT, part("model", b"flux-3-image"), image)

        assert [image["field"] for image in answer.json()["params"]["images"]] == ["images[0]"], answer.text


async def test_an_image_that_the_model_does_not_take_is_refused_in_every_form(world: World) -> None:
    as_file = await post_form(world, PROMPT, part("mask", PNG, '; filename="a"'))
    twice = await post_form(world, PROMPT, *[part("input_image", PNG, '; filename="a"')] * 2)

    assert problem(as_file, 422)["fields"] == {
        "mask": "flux-kontext-pro has no such image: it takes input_image, input_image_2 to input_image_4"
    }
    assert problem(twice, 422)["fields"] == {"input_image": "must be one image, not a list"}
    assert await nothing_recorded(world)
