import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.catalog import DEFAULT_MODEL, shipped_catalog
from app.errors import InvalidRequest
from app.params import TaskOptions
from tests.requests import task_params

CATALOG = shipped_catalog()
MEMBERS = CATALOG.model(DEFAULT_MODEL).properties
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


def params(**given: Any) -> dict[str, Any]:
    """Return what the provider gets for these members."""
    return dict(task_params(**{"prompt": "a lake", **given}).parameters)


def broken(**given: Any) -> list[str]:
    """Return the names of the parameters that are refused."""
    with pytest.raises(InvalidRequest) as refused:
        params(**given)
    return list(refused.value.fields)


def test_only_the_prompt_is_required() -> None:
    assert params() == {
        "prompt": "a lake",
        "output_format": "png",
        "prompt_upsampling": False,
        "safety_tolerance": 2,
    }


@pytest.mark.parametrize(
    "prompt",
    ["", "   ", "\n\t", "\u2003", None, 7, ["a lake"], "a\0lake", "a \ud800", "\udfff", "a" * 65_537],
    ids=["empty", "spaces", "line end", "em space", "null", "number", "list", "nul", "high", "low", "long"],
)
def test_an_unusable_prompt_is_refused(prompt: object) -> None:
    assert broken(prompt=prompt) == ["prompt"]


@pytest.mark.parametrize(
    "prompt",
    ["a", "\u00e9\u4e2d\U0001f600", "two\nlines", "a" * 65_536, "\ue000\ud7ff"],
    ids=["short", "unicode", "lines", "longest", "beside the surrogates"],
)
def test_a_prompt_is_not_changed(prompt: str) -> None:
    assert params(prompt=prompt)["prompt"] == prompt


@pytest.mark.parametrize("model", ["flux-kontext", "FLUX-KONTEXT-PRO", "", "../credits"])
def test_a_model_that_is_not_in_the_catalog_is_refused(model: str) -> None:
    assert broken(model=model) == ["model"]


@pytest.mark.parametrize("ratio", ["1:1", "16:9", "9:16", "21:9", "9:21", "3:7", "7:3", "2100:900", None])
def test_a_ratio_within_the_range_is_accepted(ratio: str | None) -> None:
    assert params(aspect_ratio=ratio).get("aspect_ratio") == ratio


@pytest.mark.parametrize(
    "ratio",
    [
        "22:9",
        "9:22",
        "1:0",
        "0:1",
        "0:0",
        "-1:1",
        "01:1",
        "1.5:1",
        "16/9",
        "16x9",
        "16:9:1",
        " 16:9",
        "16:9\n",
        "",
        ":",
        "\u0661:\u0661",
        "10000:10000",
        1.78,
    ],
)
def test_a_ratio_outside_the_range_or_in_another_form_is_refused(ratio: object) -> None:
    assert broken(aspect_ratio=ratio) == ["aspect_ratio"]


@given(st.integers(min_value=1, max_value=9999), st.integers(min_value=1, max_value=9999))
def test_the_range_of_ratios_is_the_published_one(width: int, height: int) -> None:
    if 9 / 21 <= width / height <= 21 / 9:
        assert params(aspect_ratio=f"{width}:{height}")["aspect_ratio"]
    else:
        assert broken(aspect_ratio=f"{width}:{height}")


@pytest.mark.parametrize("seed", [None, 0, 42, -1, -(2**63), 2**63, 2**64 - 1])
def test_a_seed_of_64_bits_is_accepted(seed: int | None) -> None:
    assert params(seed=seed).get("seed") == seed


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**400, 1.5, float("nan"), "seven"])
def test_a_seed_that_is_no_64_bit_number_is_refused(seed: object) -> None:
    assert broken(seed=seed) == ["seed"]


@pytest.mark.parametrize("tolerance", range(7))
def test_every_documented_tolerance_is_accepted(tolerance: int) -> None:
    assert params(safety_tolerance=tolerance)["safety_tolerance"] == tolerance


@pytest.mark.parametrize("tolerance", [-1, 7, 2.5, "lax"])
def test_another_tolerance_is_refused(tolerance: object) -> None:
    assert broken(safety_tolerance=tolerance) == ["safety_tolerance"]


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_three_output_formats_are_accepted(output_format: str) -> None:
    assert params(output_format=output_format)["output_format"] == output_format


@pytest.mark.parametrize("output_format", ["jpg", "PNG", "gif", ""])
def test_another_format_is_refused(output_format: object) -> None:
    assert broken(output_format=output_format) == ["output_format"]


@pytest.mark.parametrize("name", ["safety_tolerance", "output_format", "prompt_upsampling", "seed", "user"])
def test_null_stands_for_the_default(name: str) -> None:
    assert params(**{name: None}) == params()


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "2026-01-01T00:00:00"])
def test_an_instant_outside_the_range_of_utc_is_refused(at: str) -> None:
    with pytest.raises(ValidationError, match="deadline_at"):
        TaskOptions.model_validate({"deadline_at": at})


@pytest.mark.parametrize(
    "at", [1764000000, 1764000000.5, "1764000000", "1764000000123", " -1.5 ", "1e9", "2026", True], ids=repr
)
@pytest.mark.parametrize("as_json", [True, False])
def test_an_instant_that_is_a_number_is_refused_with_the_expected_form(at: object, *, as_json: bool) -> None:
    given = {"deadline_at": at}
    with pytest.raises(ValidationError, match="such as 2026-01-31T12:00:00Z, not a number"):
        TaskOptions.model_validate_json(json.dumps(given), strict=True) if as_json else TaskOptions.model_validate(
            given
        )


def test_an_instant_is_converted_to_utc_from_any_zone() -> None:
    asked = [task_params(deadline_at=at).masked_json() for at in ("2026-01-01T12:00:00+02:00", "2026-01-01T10:00:00Z")]

    assert asked[0] == asked[1]


@pytest.mark.parametrize("user", ["u", "\u00e9" * 256, "anna@example.com"])
def test_an_id_of_an_end_user_is_kept_to_the_letter(user: str) -> None:
    assert params(user=user)["user"] == user


@pytest.mark.parametrize("user", ["", "u" * 257, 7, "a\0b", "\ud800"], ids=["empty", "long", "number", "nul", "half"])
def test_an_unusable_id_of_an_end_user_is_refused(user: object) -> None:
    assert broken(user=user) == ["user"]


def test_all_invalid_parameters_are_named_at_once() -> None:
    assert set(broken(seed="x", safety_tolerance=9, aspect_ratio="wide")) == {
        "seed",
        "aspect_ratio",
        "safety_tolerance",
    }


@given(st.dictionaries(st.sampled_from([*MEMBERS, "another"]), JSON))
def test_any_json_is_accepted_or_refused_without_another_error(given: dict[str, Any]) -> None:
    try:
        CATALOG.check(CATALOG.model(DEFAULT_MODEL), given, [])
    except InvalidRequest as refused:
        assert refused.fields  # noqa: PT017 - both ends are right
