"""Fields that the provider-compatible API does not know: what would buy the wrong image is refused by name."""

import json
from typing import Any

import httpx
import pytest

from app.dispatch import dispatch
from app.provider import ProviderResponse
from app.rules.task import Report, Said
from tests.calling import answering
from tests.pictures import in_base64, photo, picture
from tests.web.documents import nothing_recorded, problem
from tests.world import World, with_provider

PRO, MAX = "/v1/flux-kontext-pro", "/flux/v1/flux-kontext-max"
PNG = in_base64(picture())
URL = "https://example.com/fox.png"
ALL = "input_image, input_image_2 to input_image_4"


async def post(world: World, **fields: Any) -> httpx.Response:
    return await world.api.post(PRO, json={"prompt": "black and white", **fields})


async def reason(world: World, name: str, value: Any) -> str:
    """Post an unknown field; return why it is refused. Nothing may be recorded."""
    found = problem(await post(world, **{name: value}), 422, "invalid_request")
    assert list(found["fields"]) == [name]
    assert await nothing_recorded(world)
    return str(found["fields"][name])


PICTURES: list[tuple[str, Any, str]] = [
    ("image", PNG, "use input_image"),
    ("image", URL, "use input_image"),
    ("image", "file-abc123", "use input_image"),
    ("image", "photo.jpg", "use input_image"),
    ("image", {"url": URL}, "use input_image"),
    ("image", [PNG], "use input_image"),
    ("img", PNG, "use input_image"),
    ("images", [PNG, PNG], f"use {ALL}"),
    ("images", 4, "use input_image"),
    ("image_url", URL, "use input_image"),
    ("imageUrl", URL, "use input_image"),
    ("image_urls", [URL, URL], f"use {ALL}"),
    ("image-url", URL, "use input_image"),
    ("image_base64", PNG, "use input_image"),
    ("image_b64", PNG, "use input_image"),
    ("image_2", PNG, "use input_image_2"),
    ("image3", PNG, "use input_image_3"),
    ("reference_image_4", URL, "use input_image_4"),
    ("image_9", URL, f"this model takes {ALL}"),
    ("inputImage", PNG, "use input_image"),
    ("Input_Image", PNG, "use input_image"),
    ("inputImage2", PNG, "use input_image_2"),
    ("input_images", [PNG], "use input_image"),
    ("input_image_1", PNG, "use input_image"),
    ("input_image_url", URL, "use input_image"),
    ("input_image_5", PNG, f"this model takes {ALL}"),
    ("input_image_5", 5, f"this model takes {ALL}"),
    ("init_image", PNG, "use input_image"),
    ("init_img", PNG, "use input_image"),
    ("image_prompt", PNG, "use input_image"),
    ("control_image", URL, "use input_image"),
    ("reference_image", URL, "use input_image"),
    ("reference_images", [URL, URL], f"use {ALL}"),
    ("style_image", URL, "use input_image"),
    ("image_id", 77, "use input_image"),
    ("picture", PNG, "use input_image"),
    ("photo", "C:\\fox.jpg", "use input_image"),
    ("pic_url", URL, "use input_image"),
    ("mask", PNG, "takes no mask"),
    ("mask_image", PNG, "takes no mask"),
    ("mask_url", URL, "takes no mask"),
    ("maskImage", PNG, "takes no mask"),
    ("files", ["file-abc123"], "use input_image"),
    ("attachments", [{"id": "a"}], "use input_image"),
    ("references", ["one", "two"], f"use {ALL}"),
    ("source", f"data:image/png;base64,{PNG}", f"images go into {ALL}"),
    ("source", " DATA:image/jpeg;base64,AAAA", f"images go into {ALL}"),
    ("subject", PNG, f"holds a picture: images go into {ALL}"),
    ("subject", in_base64(photo()), f"holds a picture: images go into {ALL}"),
    ("subject", in_base64(picture(form="GIF")), f"holds a picture: images go into {ALL}"),
    ("subject", "\n".join(PNG[at : at + 76] for at in range(0, 800, 76)), "holds a picture"),
    ("subject", PNG.replace("+", "-").replace("/", "_"), "holds a picture"),
    ("link", "http://example.com/fox", f"holds an address: images go into {ALL}, a webhook into webhook_url"),
    ("link", "s3://bucket/fox.png", f"holds an address: images go into {ALL}, a webhook into webhook_url"),
    ("extra", [[{"deep": PNG}]], f"holds a picture: images go into {ALL}"),
    ("extra", {"a": {"b": [URL]}}, "holds an address"),
    ("input", {"prompt": "x", "input_image": "file-1"}, "holds a picture: use input_image"),
    ("messages", [{"content": [{"type": "image_url", "image_url": {"id": "1"}}]}], "holds a picture: use input_image"),
    ("parameters", {"mask": "file-1"}, "holds a picture: this model takes no mask"),
    ("data", list(picture()[:40]), "holds a picture"),
    ("data", picture()[:40].hex(), "holds a picture"),
    ("foo", json.dumps({"image": PNG}), "holds a picture"),
    ("source", "//cdn.example.com/a.png", "holds an address"),
    ("source", "cdn.example.com/a.png", "holds a picture"),
    ("source", "blob:https://example.com/1", "holds an address"),
    ("text", "see https://example.com/a.png", "holds an address"),
    ("init", "photo", "use input_image"),
    ("first_frame", "abc", "use input_image"),
    ("ref", "file-abc123", "use input_image"),
    ("asset_id", "abc", "use input_image"),
]


@pytest.mark.parametrize(("name", "value", "expected"), PICTURES, ids=[f"{n}-{p[0]}" for n, p in enumerate(PICTURES)])
async def test_a_picture_under_another_name_is_refused_with_the_right_one(
    world: World, name: str, value: Any, expected: str
) -> None:
    assert expected in await reason(world, name, value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("webhookUrl", "use webhook_url"),
        ("webhook", "use webhook_url"),
        ("webhooks", "use webhook_url"),
        ("web_hook", "use webhook_url"),
        ("webhook-url", "use webhook_url"),
        ("WEBHOOK_URL", "use webhook_url"),
        ("webhook_endpoint", "use webhook_url"),
        ("callback", "use webhook_url"),
        ("callback_url", "use webhook_url"),
        ("callbackUrl", "use webhook_url"),
        ("callBackUrl", "use webhook_url"),
        ("hook_url", "use webhook_url"),
        ("notify_url", "use webhook_url"),
        ("notification_url", "use webhook_url"),
        ("notifyHook", "use webhook_url"),
        ("webHookSecret", "use webhook_secret"),
        ("webhook_token", "use webhook_secret"),
        ("callback_secret", "use webhook_secret"),
        ("secret", "use webhook_secret"),
        ("signing_secret", "use webhook_secret"),
        ("webhook_form", "only POST /v1/tasks takes it"),
        ("webhook_events", "only POST /v1/tasks takes it"),
        ("webook_secret", "use webhook_secret"),
        ("webhok", "use webhook_url"),
        ("weebhook_url", "use webhook_url"),
        ("hmac_key", "use webhook_secret"),
        ("notify", "use webhook_url"),
        ("return_url", "use webhook_url"),
        ("on_complete", "use webhook_url"),
    ],
)
async def test_a_webhook_under_another_name_is_refused_with_the_right_one(
    world: World, name: str, expected: str
) -> None:
    assert (await reason(world, name, "https://app.example.com/hook")).endswith(expected)


@pytest.mark.parametrize(
    "name",
    [
        *("num_images", "numImages", "number_of_images", "num_images_per_prompt", "image_count", "n", "count"),
        *("batch_size", "num_outputs", "numberResults", "samples", "image_num", "img_count", "numImgs", "num_pics"),
        *("pictures", "images_per_prompt", "images_to_generate", "candidateCount", "num_variants", "n_iter"),
    ],
)
@pytest.mark.parametrize("value", [2, "4", 4.0])
async def test_several_images_are_refused(world: World, name: str, value: Any) -> None:
    assert await reason(world, name, value) == "one task makes one image: post a task for each image"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n", [4], "one task makes one image"),
        ("n", {"value": 4}, "one task makes one image"),
        ("parameters", {"n": 4}, "one task makes one image"),
        ("options", {"num_images": 4}, "one task makes one image"),
        ("options", {"webhook_secret": "S3"}, "holds a webhook: use webhook_secret"),
        ("options", {"webhook": "e.com"}, "holds a webhook: use webhook_url"),
    ],
)
async def test_a_field_inside_another_one_is_judged_like_one_beside_it(
    world: World, name: str, value: Any, expected: str
) -> None:
    assert expected in await reason(world, name, value)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("aspectRatio", "aspect_ratio"),
        ("outputFormat", "output_format"),
        ("Prompt", "prompt"),
        ("autoOrient", "auto_orient"),
        ("safety-tolerance", "safety_tolerance"),
        ("SEED", "seed"),
    ],
)
async def test_another_spelling_of_a_field_is_refused_with_the_right_one(world: World, name: str, right: str) -> None:
    assert await reason(world, name, "1:1") == f"unknown field: use {right}"


HARMLESS: dict[str, Any] = {
    "guidance": 2.5,
    "steps": 50,
    "num_images": 1,
    "n": "1",
    "image_size": "landscape_4_3",
    "image_prompt_strength": 0.1,
    "mask_blur": 4,
    "img2img": False,
    "webhook_enabled": False,
    "negative_prompt": "text: see https://example.com for what to avoid",
    "response_format": "b64_json",
    "loras": [{"name": "a", "scale": 0.5}],
    "options": {"raw": True},
    "topics": "graphics",
    "ein Feld": "ein Füchslein",
}


async def test_other_unknown_fields_are_passed_on_and_named_in_warnings(world: World) -> None:
    posted = (await post(world, **HARMLESS)).json()
    task = await world.task(posted["id"])
    provider = answering(ProviderResponse(Report(Said.PENDING, provider_id="1"), 200, {}, b"{}"))
    await dispatch(with_provider(world.use, provider), task["id"])

    assert provider.orders[0].params.items() >= HARMLESS.items()
    assert posted["warnings"] == task["warnings"]
    assert [warning.split(":")[0] for warning in task["warnings"]] == list(HARMLESS)
    assert "unknown to flux-kontext-pro; passed on to the provider" in task["warnings"][0]


async def test_the_provider_makes_an_image_of_a_request_with_unknown_fields(world: World) -> None:
    posted = (await post(world, **HARMLESS)).json()
    await world.go_on(6)

    assert (await world.task(posted["id"]))["status"] == "stored"


async def test_an_answer_without_warnings_has_the_members_of_the_provider_alone(world: World) -> None:
    assert (await post(world, seed=7)).json().keys() == {"id", "polling_url", "status"}


async def test_options_of_the_native_api_and_another_model_have_no_effect_and_a_warning(world: World) -> None:
    posted = (await post(world, priority=9, deadline_at="yesterday", model="flux-pro-1.1")).json()
    task = await world.task(posted["id"])

    assert (task["priority"], task["deadline_at"], task["model"]) == (0, None, "flux-kontext-pro")
    assert task["warnings"] == posted["warnings"]
    assert [warning.split(": ")[0] for warning in task["warnings"]] == ["priority", "deadline_at", "model"]
    assert (await post(world, model="flux-kontext-pro")).json().get("warnings") is None


EMPTY: list[dict[str, Any]] = [
    {"input_image": ""},
    {"input_image": " \n", "input_image_2": "", "input_image_3": None},
    {"aspect_ratio": "", "output_format": "", "seed": "", "safety_tolerance": "", "prompt_upsampling": ""},
    {"webhook_url": "", "webhook_secret": ""},
    {"webhook_url": None, "webhook_secret": " ", "user": "", "auto_orient": ""},
    {"image": None, "mask": "", "images": [], "image_url": " ", "webhook": {}, "callback_url": None},
]


@pytest.mark.parametrize("fields", EMPTY, ids=lambda fields: next(iter(fields)) + str(len(fields)))
async def test_an_empty_field_counts_as_absent(world: World, fields: dict[str, Any]) -> None:
    answer = await post(world, **fields)
    task = await world.task(answer.json()["id"])

    assert answer.json().keys() == {"id", "polling_url", "status"}
    assert (task["params"]["images"], task["webhook"], task["warnings"]) == ([], None, [])
    assert task["params"]["output_format"] == "png"


async def test_an_empty_first_image_before_a_second_one_is_a_gap(world: World) -> None:
    found = problem(await post(world, input_image="", input_image_2=PNG), 422)

    assert found["fields"] == {"input_image": "missing: images are numbered without a gap"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 9000, "unknown field: at most 32 unknown fields of together 8 KB are passed on"),
        ("a\0b", "must be text without NUL characters or lone surrogates"),
        ("\ud800", "must be text without NUL characters or lone surrogates"),
        ({"\ud800": 1}, "must be text without NUL characters or lone surrogates"),
        (float("nan"), "unknown field: must be JSON of finite numbers and few levels"),
        ([float("inf")], "unknown field: must be JSON of finite numbers and few levels"),
        ([0] * 100_000, "unknown field: at most 32 unknown fields of together 8 KB are passed on"),
    ],
    ids=["long", "NUL", "surrogate", "surrogate in a name", "NaN", "infinity", "long list"],
)
async def test_what_cannot_be_stored_or_is_too_large_is_not_passed_on(world: World, value: Any, expected: str) -> None:
    body = json.dumps({"prompt": "x", "guidance": value})
    found = problem(await world.api.post(PRO, content=body), 422)

    assert found["fields"] == {"guidance": expected}


@pytest.mark.parametrize("levels", [100, 900, 100_000])
async def test_deeply_nested_fields_are_passed_on_or_refused(world: World, levels: int) -> None:
    body = f'{{"prompt": "x", "guidance": {"[" * levels}{"]" * levels}}}'

    assert (await world.api.post(PRO, content=body)).status_code in {200, 400, 422}


async def test_the_number_and_the_names_of_unknown_fields_are_limited(world: World) -> None:
    assert (await post(world, **{f"x{number}": 1 for number in range(32)})).status_code == 200
    assert problem(await post(world, **{f"x{number}": 1 for number in range(33)}), 422)["fields"].keys() == {"x32"}
    assert problem(await post(world, **{"k" * 101: 1}), 422)["fields"] == {"k" * 100: "unknown field"}
    for name in ("a\0b", "\ud800"):
        answer = await world.api.post(PRO, content=json.dumps({"prompt": "x", name: 1}))
        assert "unknown field" in problem(answer, 422)["message"]


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/flux-3-image"])
async def test_a_model_that_refuses_unknown_fields_gets_none(world: World, path: str) -> None:
    body = {"prompt": "x", "guidance": 2.5, **({"model": "flux-3-image"} if path == "/v1/tasks" else {})}
    found = problem(await world.api.post(path, json=body), 422)

    assert list(found["fields"]) == ["guidance"]
    assert found["fields"]["guidance"].startswith("flux-3-image has no such member: it takes prompt, images, ")
    assert await nothing_recorded(world)


@pytest.mark.parametrize(
    ("model", "name", "expected"),
    [
        ("flux-3-image", "input_image", "use images"),
        ("flux-tools/erase-v1", "input_image", "images go into image, mask"),
        ("flux-tools/erase-v1", "mask_url", "use mask"),
        ("flux-tools/deblur-v1", "photo", "use image"),
        ("flux-2-pro", "image_8", "use input_image_8"),
    ],
)
async def test_a_picture_for_another_model_is_refused_with_the_field_of_this_one(
    world: World, model: str, name: str, expected: str
) -> None:
    answer = await world.api.post(f"/v1/{model}", json={"prompt": "x", name: URL})

    assert problem(answer, 422)["fields"][name].endswith(expected)


async def test_requests_that_differ_in_a_passed_on_field_are_different_requests(world: World) -> None:
    headers = {"idempotency-key": "one"}
    answers = [
        await world.api.post(PRO, json={"prompt": "x", "guidance": guidance}, headers=headers)
        for guidance in (2.5, 2.5, 3)
    ]

    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[0].json()["warnings"] == answers[1].json()["warnings"] != []
    problem(answers[2], 422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("query", "name", "expected"),
    [
        ("prompt=x", "prompt", "must be in the body, not in the query"),
        ("webhook_url=https://app.example.com/", "webhook_url", "must be in the body, not in the query"),
        (f"image_url={URL}", "image_url", "unknown field: use input_image"),
        ("callback=x", "callback", "unknown field: use webhook_url"),
        ("n=4", "n", "one task makes one image: post a task for each image"),
    ],
)
async def test_a_field_in_the_query_is_refused(world: World, query: str, name: str, expected: str) -> None:
    found = problem(await world.api.post(f"{PRO}?{query}", json={"prompt": "x"}), 422)

    assert found["fields"] == {name: expected}
    assert await nothing_recorded(world)


async def test_another_query_parameter_is_named_in_a_warning(world: World) -> None:
    answer = await world.api.post(f"{MAX}?api-version=2026-01-01&n=1", json={"prompt": "x"})

    assert answer.json()["warnings"] == [f"{name}: query parameters are not read" for name in ("api-version", "n")]


@pytest.mark.parametrize(
    ("name", "value"), [("image", "1"), ("num_images", "2"), ("webhookUrl", "1"), ("aspectRatio", "1:1")]
)
async def test_the_native_api_refuses_what_would_buy_the_wrong_image(world: World, name: str, value: str) -> None:
    as_json = await world.api.post("/v1/tasks", json={"prompt": "x", name: value})
    as_form = await world.api.post("/v1/tasks", data={"prompt": "x", name: value}, files={"input_image": picture()})
    as_query = await world.api.post("/v1/tasks", json={"prompt": "x"}, params={name: value})

    for answer in (as_json, as_form, as_query):
        assert list(problem(answer, 422)["fields"]) == [name]
    assert await nothing_recorded(world)


async def test_the_native_api_passes_other_unknown_fields_on_with_a_warning(world: World) -> None:
    as_json = await world.api.post("/v1/tasks", json={"prompt": "x", "guidance": 2.5})
    as_form = await world.api.post(
        "/v1/tasks", data={"prompt": "x", "guidance": "2.5"}, files={"input_image": picture()}
    )

    for answer in (as_json, as_form):
        assert answer.status_code == 202, answer.text
        assert answer.json()["warnings"] == [
            "guidance: unknown to flux-kontext-pro; passed on to the provider, which may ignore it"
        ]
    assert as_json.json()["params"]["guidance"] == 2.5
