"""The catalog: rows, checks of requests, and the operator's file."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.catalog import Catalog, open_catalog, unlisted
from app.errors import ConfigurationError, InvalidRequest
from app.rules.json_value import JsonValue
from app.rules.request import TaskRequest
from app.twin.models import known_models

CATALOG = open_catalog()


def parameters(model: str, *images: str, **members: JsonValue) -> dict[str, JsonValue]:
    return dict(CATALOG.check(CATALOG.model(model), members, images).parameters)


def reasons(model: str, *images: str, **members: JsonValue) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        CATALOG.check(CATALOG.model(model), members, images)
    return caught.value.fields


def test_every_image_model_of_the_provider_has_a_row_with_the_same_members() -> None:
    ours = {model.id: set(model.properties) for model in CATALOG if model.kind == "image"}
    theirs = {name: set(facts.members) - {"webhook_url", "webhook_secret"} for name, facts in known_models().items()}

    assert ours == theirs


def test_a_row_says_whether_the_model_takes_a_webhook_and_refuses_unknown_members() -> None:
    theirs = known_models()

    assert {m.id: (m.webhook, m.strict) for m in CATALOG if m.kind == "image"} == {
        name: ("webhook_url" in facts.members, facts.strict) for name, facts in theirs.items()
    }


def test_a_member_whose_default_is_disputed_is_sent_at_its_default() -> None:
    assert parameters("flux-kontext-pro", prompt="a fox") == {
        "output_format": "png",
        "prompt_upsampling": False,
        "safety_tolerance": 2,
        "prompt": "a fox",
    }
    assert parameters("flux-3-image", prompt="a fox") == {"prompt": "a fox"}


def test_a_null_counts_as_absent() -> None:
    assert parameters("flux-2-pro", prompt="a fox", seed=None, output_format=None) == {
        "output_format": "jpeg",
        "prompt": "a fox",
    }


@pytest.mark.parametrize(
    ("model", "members", "field", "reason"),
    [
        ("flux-2-pro", {"prompt": " "}, "prompt", "must not be blank"),
        ("flux-2-pro", {}, "prompt", "is required"),
        ("flux-2-pro", {"prompt": "x", "width": 63}, "width", "must be at least 64"),
        ("flux-2-pro", {"prompt": "x", "width": "64"}, "width", "must be an integer"),
        ("flux-2-pro", {"prompt": "x", "safety_tolerance": 6}, "safety_tolerance", "must be at most 5"),
        ("flux-2-pro", {"prompt": "x", "output_format": "gif"}, "output_format", "must be jpeg, png or webp"),
        ("flux-2-pro", {"prompt": "x\0"}, "prompt", "must be text without NUL characters or lone surrogates"),
        ("flux-2-pro", {"prompt": "\ud800"}, "prompt", "must be text without NUL characters or lone surrogates"),
        ("flux-2-flex", {"prompt": "x", "guidance": float("nan")}, "guidance", "must be a finite number"),
        ("flux-2-pro", {"prompt": "x", "user": ""}, "user", "must not be empty"),
        ("flux-pro-1.1", {"width": 1000}, "width", "must be a multiple of 32"),
        (
            "flux-kontext-pro",
            {"prompt": "x", "aspect_ratio": "22:9"},
            "aspect_ratio",
            "must be W:H with integers, between 21:9 and 9:21",
        ),
    ],
)
def test_a_wrong_member_is_named_with_the_reason(
    model: str, members: dict[str, JsonValue], field: str, reason: str
) -> None:
    assert reasons(model, **members) == {field: reason}


def test_an_integer_is_not_written_as_a_float() -> None:
    assert reasons("flux-2-pro", prompt="x", seed=5.0) == {"seed": "must be an integer"}
    assert parameters("flux-2-flex", prompt="x", guidance=5)["guidance"] == 5


def test_a_tolerance_that_the_documents_allow_for_new_images_alone_gets_a_warning() -> None:
    def warnings(*images: str) -> tuple[str, ...]:
        members: dict[str, JsonValue] = {"prompt": "x", "safety_tolerance": 6}
        return CATALOG.check(CATALOG.model("flux-kontext-pro"), members, images).warnings

    assert warnings() == ()
    assert warnings("input_image") == (
        "safety_tolerance above 2 with an input image: BFL's editing guide allows 0 to 2",
    )


def test_a_model_without_a_row_takes_any_members() -> None:
    model = unlisted("flux-9")
    checked = CATALOG.check(model, {"prompt": "x", "width": 64, "aspect_ratio": "a lot", "new": 1}, ["input_image"])

    assert (model.path, model.webhook, model.strict) == ("/v1/flux-9", True, False)
    assert checked.parameters == {"prompt": "x", "width": 64, "aspect_ratio": "a lot", "new": 1}
    assert [warning.partition(":")[0] for warning in checked.warnings] == ["new"]


def test_a_task_whose_model_has_left_the_catalog_keeps_what_was_recorded() -> None:
    recorded = TaskRequest({"prompt": "x"}, path="/v2/flux-9", webhook=False)
    kept = CATALOG.of_task("flux-9", TaskRequest.of_json(recorded.as_json()))

    assert (kept.path, kept.webhook) == ("/v2/flux-9", False)
    assert CATALOG.of_task("flux-9", TaskRequest({"prompt": "x"})).path == "/v1/flux-9"
    assert CATALOG.of_task("flux-3-image", TaskRequest({"prompt": "x"})).webhook is False


def test_a_reason_never_quotes_the_value() -> None:
    secret = "the prompt itself"

    assert secret not in str(reasons("flux-2-pro", prompt=[secret], width=secret, seed={"a": secret}))


def test_a_strict_model_refuses_a_member_that_it_does_not_know() -> None:
    assert reasons("flux-3-image", prompt="x", seed=1)["seed"].startswith(
        "flux-3-image has no such member: it takes prompt, images, aspect_ratio"
    )


def test_another_model_gets_an_unknown_member_with_a_warning() -> None:
    checked = CATALOG.check(CATALOG.model("flux-2-pro"), {"prompt": "x", "new_option": 1}, [])

    assert checked.parameters["new_option"] == 1
    assert [warning.partition(":")[0] for warning in checked.warnings] == ["new_option"]


@pytest.mark.parametrize(
    ("model", "member", "value", "reason"),
    [
        ("flux-2-pro", "aspect_ratio", "16:9", "give width and height for the aspect ratio"),
        ("flux-2-pro", "aspect_ratio", "match_input_image", "with an input image, the result has its proportions"),
        ("flux-kontext-pro", "aspect_ratio", "auto", "with an input image, the result has its proportions"),
        ("flux-3-image", "aspect_ratio", "match_input_image", "does not know match_input_image; give auto"),
        ("flux-3-image", "width", 1024, "give aspect_ratio and resolution for the width in pixels"),
        ("flux-kontext-pro", "width", 512, "give aspect_ratio for the width in pixels"),
        ("flux-tools/deblur-v1", "aspect_ratio", "1:1", "the result has the size of the input image"),
    ],
)
def test_a_size_that_the_model_would_ignore_is_refused_with_what_to_give_instead(
    model: str, member: str, value: JsonValue, reason: str
) -> None:
    images = ["image"] if model.endswith("deblur-v1") else []
    prompt = {} if model.endswith("deblur-v1") else {"prompt": "x"}

    assert reasons(model, *images, **{**prompt, member: value})[member].endswith(reason)


def test_a_second_form_of_the_size_is_passed_on_beside_the_one_that_the_model_knows() -> None:
    sent = parameters("flux-2-pro", prompt="x", aspect_ratio="1:1", width=512, height=512)

    assert sent["aspect_ratio"] == "1:1"


def test_images_fill_numbered_members_without_a_gap() -> None:
    parameters("flux-kontext-pro", "input_image", "input_image_2", prompt="x")

    assert reasons("flux-kontext-pro", "input_image_2", prompt="x") == {
        "input_image": "missing: images are numbered without a gap"
    }


def test_a_list_holds_as_many_images_as_the_model_takes() -> None:
    parameters("flux-3-image", *(f"images[{n}]" for n in range(10)), prompt="x")

    assert "images" in reasons("flux-3-image", *(f"images[{n}]" for n in range(11)), prompt="x")


def test_a_missing_image_is_named() -> None:
    assert reasons("flux-tools/erase-v1", "image") == {"mask": "is required"}


def test_an_image_that_the_model_does_not_take_is_refused_with_those_that_it_takes() -> None:
    assert reasons("flux-3-image", "input_image", prompt="x") == {
        "input_image": "flux-3-image has no such image: it takes up to 10 in images"
    }
    assert reasons("flux-kontext-pro", "mask", prompt="x") == {
        "mask": "flux-kontext-pro has no such image: it takes input_image, input_image_2 to input_image_4"
    }


def test_a_video_model_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="flux-3-video makes videos, and Fluxhook serves images only"):
        CATALOG.model("flux-3-video")


def test_an_unknown_model_is_refused_with_the_list_of_those_that_are_served() -> None:
    with pytest.raises(InvalidRequest, match=r"flux-9 is not in the catalog; served are flux-kontext-pro, "):
        CATALOG.model("flux-9")


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "flux-4",
        "request": {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
        **changes,
    }


def opened(tmp_path: Path, *rows: dict[str, Any]) -> Catalog:
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"models": rows}))
    return open_catalog(file)


def test_a_row_of_the_operators_file_adds_a_model(tmp_path: Path) -> None:
    model = opened(tmp_path, row()).model("flux-4")

    assert (model.path, model.webhook, model.strict, model.images.max) == ("/v1/flux-4", True, False, 0)


def test_a_row_of_the_operators_file_replaces_a_shipped_one(tmp_path: Path) -> None:
    catalog = opened(tmp_path, row(id="flux-2-pro", longest_s=42))

    assert catalog.model("flux-2-pro").longest_s == 42
    assert catalog.served.count("flux-2-pro") == 1


def test_the_operators_file_may_be_toml(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(
        '[[models]]\nid = "flux-4"\nwebhook = false\n[models.images]\nstyle = "list"\nmembers = ["images"]\nmax = 3\n'
        '[models.request]\nrequired = ["prompt"]\n[models.request.properties]\n'
        'prompt = {type = "string"}\nimages = {type = ["array", "string"], maxItems = 3}\n'
    )

    assert open_catalog(file).model("flux-4").images.slots == ("images[0]", "images[1]", "images[2]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "colour is not a known member"),
        ({"link_life_s": "long"}, "link_life_s must be a number"),
        ({"images": {"style": "numbered", "members": ["input_image"]}}, "images.members names input_image"),
        ({"images": {"style": "list"}}, "images.members must be empty if images.style is none"),
        ({"send_defaults": ["prompt"]}, "send_defaults names prompt, which has no default"),
        ({"request": {"properties": {"webhook_url": {"type": "string"}}}}, "must not have webhook_url"),
        ({"request": {"required": ["seed"], "properties": {}}}, "request.required names seed"),
        ({"without_images": {"ratio": "1:1"}}, "without_images names ratio"),
        ({"request": {"properties": {"images": {"type": "array"}}}}, "request.properties has images"),
        ({"request": {"properties": {"prompt": {"type": "text"}}}}, "JSON Schema: properties.prompt.type: "),
        ({"request": {"properties": {"prompt": {"$ref": "#/$defs/gone"}}}}, "request is not a valid JSON Schema"),
    ],
)
def test_a_wrong_row_is_refused_with_its_id_and_member(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(tmp_path, row(), row(id="flux-5", **changes))

    assert "FLUXHOOK_MODELS_FILE: models.json: models[1] (flux-5): " in caught.value.detail
    assert message in caught.value.detail


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"models": {}}', '{"models": [], "x": 1}', '{"models": [1]}', "\xff"]
)
def test_a_file_that_is_no_table_of_models_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "models.json"
    file.write_bytes(content.encode("latin-1"))

    with pytest.raises(ConfigurationError, match="FLUXHOOK_MODELS_FILE: "):
        open_catalog(file)


def test_a_model_that_is_listed_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="flux-4 is listed twice"):
        opened(tmp_path, row(), row())
