"""Messages in every form that is documented or was seen, and arbitrary input."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.provider.messages import (
    link_expiry,
    parse,
    read_acceptance,
    read_callback,
    read_credits,
    read_error,
    read_status,
)
from app.rules.task import Failure, Report, Said

SAMPLE = "https://delivery-eu1.bfl.ai/results/a.png"
# The layout of an Azure shared access signature as the delivery links carry it.
LINK = f"{SAMPLE}?se=2025-09-17T10%3A31%3A24Z&sp=r&sv=2024-11-04&sr=b&rsct=image%2Fpng&sig=Zm9v%2BYmFy%3D"

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400)])
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["Ready", "SUCCESS", "Error", "Request Moderated", "\0", "\ud800", LINK]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["id", "task_id", "status", "result", "details", "error", "detail", "message", "cost", "polling_url"]
MESSAGES = st.dictionaries(st.sampled_from(KEYS), JSON | st.fixed_dictionaries({"sample": JSON, "seed": JSON}))


def status(**message: Any) -> Report:
    return read_status(json.dumps(message).encode())


def read_all(body: bytes) -> tuple[Report, Report, Report, str]:
    return read_status(body), read_callback(body), read_acceptance(body), read_error(body)


# Callbacks and status answers


@pytest.mark.parametrize("word", ["Ready", "READY", "ready", "SUCCESS", "success", "completed", "succeeded", " Ready "])
def test_a_result_is_ready_in_every_known_wording(word: str) -> None:
    assert status(id="task-1", status=word, result={"sample": SAMPLE}).said is Said.READY


@pytest.mark.parametrize(
    "word",
    ["Pending", "PENDING", "Queued", "Processing", "processing", "Reasoning", "Generating", "in_progress", "submitted"],
)
def test_an_interim_status_is_pending_in_every_known_wording(word: str) -> None:
    assert status(id="task-1", status=word, progress=0.5) == Report(Said.PENDING, provider_id="task-1")


@pytest.mark.parametrize(
    ("word", "failure"),
    [
        ("Error", Failure.PROVIDER_ERROR),
        ("ERROR", Failure.PROVIDER_ERROR),
        ("Failed", Failure.PROVIDER_ERROR),
        ("FAILED", Failure.PROVIDER_ERROR),
        ("Request Moderated", Failure.REQUEST_MODERATED),
        ("request_moderated", Failure.REQUEST_MODERATED),
        ("Content Moderated", Failure.CONTENT_MODERATED),
        ("CONTENT MODERATED", Failure.CONTENT_MODERATED),
        ("GENERATED CONTENT MODERATED", Failure.CONTENT_MODERATED),
    ],
)
def test_a_failure_has_its_code_in_every_known_wording(word: str, failure: Failure) -> None:
    assert status(id="task-1", status=word, result=None) == Report(Said.FAILED, provider_id="task-1", failure=failure)


@pytest.mark.parametrize("word", ["Task not found", "TASK_NOT_FOUND"])
def test_an_unknown_task_is_not_found(word: str) -> None:
    assert status(id="task-1", status=word).said is Said.NOT_FOUND


@pytest.mark.parametrize("word", ["", "Done", "Readyy", "cancelled", None, 7, ["Ready"], {"Ready": 1}, "x" * 1000])
def test_an_unknown_status_is_unclear_and_never_terminal(word: object) -> None:
    assert status(id="task-1", status=word, result={"sample": SAMPLE}).said is Said.UNCLEAR


def test_the_documented_callback_is_read_completely() -> None:
    result = {"sample": LINK, "prompt": "a lake", "seed": 42}

    assert status(id="task-1", status="Ready", result=result, timestamp="2025-09-17T10:21:25Z") == Report(
        Said.READY,
        provider_id="task-1",
        sample_url=LINK,
        sample_expires_at=datetime(2025, 9, 17, 10, 31, 24, tzinfo=UTC),
        seed=42,
    )


def test_the_callback_form_seen_in_practice_is_read_completely() -> None:
    result = {"sample": LINK, "seed": 42, "start_time": 1.5, "end_time": 9.25, "duration": 7.75, "pre_filtered": False}

    assert status(task_id="task-1", status="SUCCESS", progress=1, result=result) == Report(
        Said.READY,
        provider_id="task-1",
        sample_url=LINK,
        sample_expires_at=datetime(2025, 9, 17, 10, 31, 24, tzinfo=UTC),
        seed=42,
    )


def test_the_camel_case_times_of_gptproto_are_ignored() -> None:
    result = {"sample": SAMPLE, "startTime": 1.5, "endTime": 9.25, "prompt": "a lake", "seed": 42}

    assert status(id="task-1", status="Ready", result=result).sample_url == SAMPLE


def test_a_result_may_be_a_json_string() -> None:
    assert status(task_id="task-1", status="SUCCESS", result=json.dumps({"sample": SAMPLE})).sample_url == SAMPLE


@pytest.mark.parametrize(
    "result",
    [
        *(None, {}, "", "not json", "[]", '"text"', [], 7, "[" * 100_000),
        *({"sample": sample} for sample in (None, "", "\0", 7, "https://" + "a" * 5000)),
    ],
    ids=lambda result: repr(result)[:20],
)
def test_ready_without_a_usable_result_is_unclear(result: object) -> None:
    assert status(id="task-1", status="Ready", result=result).said is Said.UNCLEAR


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        ({"id": "a"}, "a"),
        ({"task_id": "b"}, "b"),
        ({"id": "a", "task_id": "b"}, "a"),
        ({"id": None, "task_id": "b"}, "b"),
        ({"id": "", "task_id": "b"}, "b"),
        ({"id": 7}, None),
        ({"id": "a" * 201}, None),
        ({"id": "\0"}, None),
        ({}, None),
    ],
    ids=["id", "task_id", "both", "null", "empty", "number", "too long", "nul", "none"],
)
def test_the_id_is_read_from_either_name(ids: dict[str, object], read: str | None) -> None:
    assert status(status="Pending", **ids).provider_id == read


@pytest.mark.parametrize(
    "ids",
    [
        {"id": 12345},
        {"task_id": ["a"]},
        {"id": "a" * 201},
        {"id": "\0"},
        {"id": "a", "task_id": "b"},
        {"id": "a", "task_id": 0},
    ],
    ids=["number", "list", "too long", "nul", "two", "one and a number"],
)
def test_a_callback_with_two_or_invalid_ids_is_unclear(ids: dict[str, object]) -> None:
    body = json.dumps({"status": "Ready", "result": {"sample": SAMPLE}, **ids}).encode()

    assert read_callback(body).said is Said.UNCLEAR
    assert read_status(body).said is Said.READY  # we asked for the one that it is about


@pytest.mark.parametrize(
    "ids",
    [{}, {"id": None}, {"id": "", "task_id": "a"}, {"id": "a", "task_id": None}, {"id": "a", "task_id": "a"}],
    ids=["none", "null", "empty", "one", "the same twice"],
)
def test_a_callback_with_one_id_or_none_is_read_like_a_poll_answer(ids: dict[str, object]) -> None:
    body = json.dumps({"status": "Ready", "result": {"sample": SAMPLE}, **ids}).encode()

    assert read_callback(body) == read_status(body)
    assert read_callback(body).said is Said.READY


@pytest.mark.parametrize("seed", ["42", 4.5, None, True, [42]])
def test_a_seed_that_is_not_an_integer_is_none(seed: object) -> None:
    assert status(status="Ready", result={"sample": SAMPLE, "seed": seed}).seed is None


@pytest.mark.parametrize("cost", [4.5, 0])
@pytest.mark.parametrize("word", ["Ready", "SUCCESS", "Error", "Content Moderated", "Pending", "processing"])
def test_what_it_cost_may_stand_beside_any_status(word: str, cost: float) -> None:
    assert status(status=word, result={"sample": SAMPLE}, cost=cost).cost == cost


@pytest.mark.parametrize("cost", [-1, -0.5, "4", True, 10**13])
def test_a_cost_that_is_no_amount_is_ignored_with_a_note(cost: object) -> None:
    for report in (
        status(status="Ready", result={"sample": SAMPLE}, cost=cost),
        read_acceptance(json.dumps({"id": "task-1", "cost": cost}).encode()),
    ):
        assert report.cost is None
        assert report.detail == "the stated cost is not an amount of credits and is ignored"


def test_a_note_about_the_cost_does_not_become_the_reason_of_a_failure() -> None:
    assert status(status="Error", cost=-1) == Report(Said.FAILED, failure=Failure.PROVIDER_ERROR)


# Why it failed


@pytest.mark.parametrize(
    ("told", "detail"),
    [
        ({"details": {"Moderation Reasons": ["Derivative Works Filter", "NSFW"]}}, "Derivative Works Filter, NSFW"),
        ({"details": {"error": "out of memory"}}, "out of memory"),
        ({"error": "generation_timeout", "message": "It took too long"}, "It took too long"),
        ({"error": "generation_timeout"}, "generation_timeout"),
        ({"details": {"Moderation Reasons": []}}, None),
        ({"details": {"Moderation Reasons": "Faces, of minors"}}, "Faces, of minors"),
        ({"details": {"moderation_reasons": ["NSFW"]}}, "NSFW"),
        ({"details": None}, None),
        ({"details": ["NSFW"]}, None),
        ({}, None),
    ],
    ids=[
        "reasons",
        "details",
        "message",
        "code",
        "no reasons",
        "reasons as text",
        "other letters",
        "null",
        "a list",
        "nothing",
    ],
)
def test_the_reason_of_a_failure_is_found_in_every_known_place(told: dict[str, Any], detail: str | None) -> None:
    assert status(id="task-1", status="Error", result=None, **told).detail == detail


def test_the_policy_code_of_the_webhook_guide_is_moderation() -> None:
    assert status(status="Error", error="content_policy_violation").failure is Failure.CONTENT_MODERATED


def test_the_kind_of_moderation_is_in_the_message_even_if_reasons_are_given() -> None:
    report = status(
        status="Error",
        error="content_policy_violation",
        message="Request Moderated",
        details={"Moderation Reasons": ["NSFW"]},
    )

    assert (report.failure, report.detail) == (Failure.REQUEST_MODERATED, "NSFW")


def test_a_long_reason_is_truncated() -> None:
    reasons = {"Moderation Reasons": ["x" * 500] * 100}

    assert len(status(status="Error", details=reasons).detail or "") == 2000


# The answer to a submit


def test_an_acceptance_without_a_webhook_has_a_polling_url() -> None:
    body = (
        b'{"id": "task-1", "polling_url": "https://api.eu2.bfl.ai/v1/get_result?id=task-1", "cost": 4.5, "input_mp": 0}'
    )

    assert read_acceptance(body) == Report(
        Said.PENDING, provider_id="task-1", polling_url="https://api.eu2.bfl.ai/v1/get_result?id=task-1", cost=4.5
    )


def test_an_acceptance_with_a_webhook_has_only_the_id() -> None:
    body = b'{"id": "task-1", "status": "Pending", "webhook_url": "https://x.example.com"}'

    assert read_acceptance(body) == Report(Said.PENDING, provider_id="task-1")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"id": null}', b"[]", b"<html>", b'{"id": "task-1"'], ids=bytes.decode)
def test_an_acceptance_without_an_id_is_unclear(body: bytes) -> None:
    assert read_acceptance(body).said is Said.UNCLEAR


@pytest.mark.parametrize(
    "cost", ["4", "null", "true", "NaN", "Infinity", "1e999", "1e300", "-1e300", "1" + "0" * 400, '"4"', "[4]"]
)
def test_a_cost_is_a_number_that_can_be_summed_or_none(cost: str) -> None:
    read = read_acceptance(f'{{"id": "task-1", "cost": {cost}}}'.encode()).cost

    assert read == (4 if cost == "4" else None)


# Errors


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"detail": "Not authenticated"}, "Not authenticated"),
        (
            {"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]},
            "body.prompt: Field required",
        ),
        ({"detail": [{"loc": ["body", 0], "msg": "a"}, {"loc": None, "msg": "b"}]}, "body.0: a; : b"),
        ({"detail": ["plain", "text"]}, "plain; text"),
        ({"message": "Rate limit exceeded"}, "Rate limit exceeded"),
        ({"error": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"error": "code", "message": "words", "details": {}}, "words"),
        ({"error": {"message": "Insufficient balance", "type": "403"}}, "Insufficient balance"),
        ({"error": {"code": "401"}}, "401"),
        ({"error": {}}, ""),
        ({"detail": [], "message": "words"}, "words"),
        ({"detail": None, "message": None, "error": None}, ""),
        ({}, ""),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_the_text_of_an_error_is_found_in_every_form(body: dict[str, Any], text: str) -> None:
    assert read_error(json.dumps(body).encode()) == text


def test_the_input_that_a_validation_error_repeats_is_dropped() -> None:
    body = {"detail": [{"loc": ["body", "prompt"], "msg": "too long", "input": "a private wish"}]}

    assert "private" not in read_error(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"<html>Access denied</html>", b"\xff\xfe", b"null", b"3"])
def test_an_error_without_json_has_no_text(body: bytes) -> None:
    assert read_error(body) == ""


# When a link dies


@pytest.mark.parametrize(
    ("query", "expiry"),
    [
        ("se=2025-09-17T10%3A31%3A24Z&sp=r&sig=x", datetime(2025, 9, 17, 10, 31, 24, tzinfo=UTC)),
        ("sp=r&se=2024-11-13T09:11:02Z", datetime(2024, 11, 13, 9, 11, 2, tzinfo=UTC)),
        ("se=2025-09-17T12%3A31%3A24%2B02%3A00", datetime(2025, 9, 17, 10, 31, 24, tzinfo=UTC)),
        ("se=2025-09-17T10%3A31%3A24", datetime(2025, 9, 17, 10, 31, 24, tzinfo=UTC)),
        ("se=2025-09-17", datetime(2025, 9, 17, tzinfo=UTC)),
        ("", None),
        ("se=", None),
        ("se=soon", None),
        ("se=1758105084", None),
        ("SE=2025-09-17T10:31:24Z", None),
        ("se=0001-01-01T00%3A00%3A00%2B23%3A59", None),
        ("se=9999-12-31T23%3A59%3A59-23%3A59", None),
        ("se=%ED%A0%80", None),
    ],
    ids=[
        *("azure", "unescaped", "offset", "no zone", "day"),
        *("none", "empty", "a word", "a number", "upper case", "before time", "after time", "surrogate"),
    ],
)
def test_the_expiry_of_a_link_is_read(query: str, expiry: datetime | None) -> None:
    assert link_expiry(f"{SAMPLE}?{query}") == expiry


def test_an_invalid_link_has_no_expiry() -> None:
    assert link_expiry("https://[::1/?se=2025-09-17T10:31:24Z") is None


@given(st.text())
def test_any_expiry_is_an_instant_in_utc_or_none(text: str) -> None:
    expiry = link_expiry(f"{SAMPLE}?se={text}")

    assert expiry is None or expiry.tzinfo is UTC


# Whatever else may come


@given(st.binary())
def test_any_bytes_are_read_without_an_error(body: bytes) -> None:
    assert read_all(body)


@given(MESSAGES)
def test_any_message_is_read_without_an_error(message: dict[str, Any]) -> None:
    assert read_all(json.dumps(message).encode())


@given(MESSAGES)
def test_every_text_that_is_read_can_be_stored(message: dict[str, Any]) -> None:
    for report in read_all(json.dumps(message).encode())[:3]:
        for text in (report.provider_id, report.polling_url, report.sample_url, report.detail):
            assert "\0" not in (text or "")
            assert (text or "").encode() is not None


@given(MESSAGES)
def test_only_a_known_status_is_terminal(message: dict[str, Any]) -> None:
    known = {"ready", "success", "error", "request moderated"}
    word = message.get("status")

    if not isinstance(word, str) or word.lower() not in known:
        assert status(**message).said in {Said.UNCLEAR, Said.PENDING}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"status": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"status": "Error", "error": ' + b'{"error": ' * 100_000 + b"1" + b"}" * 100_001,
        b'{"id": ' + b"9" * 10_000 + b"}",
        b'{"status": "Error", "details": {"Moderation Reasons": [[[[]]], {}, null, 1e999]}}',
        b'{"detail": [{"loc": 5, "msg": {}}, null, [], 7]}',
        '{"id": "\u00e9"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"id": "a"}',
        b'{"id": NaN, "cost": -Infinity, "result": NaN}',
    ],
    ids=["brackets", "closed brackets", "objects", "digits", "reasons", "errors", "utf-16", "byte order mark", "nan"],
)
def test_a_hostile_body_is_read_without_an_error(body: bytes) -> None:
    assert read_all(body)


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_nesting_near_the_interpreters_limit_is_read_without_an_error(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth

    assert read_all(b'{"status": "Error", "error": ' + nested + b', "detail": [{"loc": ' + nested + b"}]}")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"7", b"null", b"true", b"", b"{", b"\xff"], ids=repr)
def test_only_an_object_is_a_message(body: bytes) -> None:
    assert parse(body) is None


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"credits": 1234.5}', 1234.5),
        (b'{"credits": 0}', 0),
        (b'{"credits": "9"}', None),
        (b'{"credits": true}', None),
        (b'{"credits": NaN}', None),
        (b'{"detail": "Not Found"}', None),
        (b"<html>", None),
    ],
)
def test_a_balance_is_a_number_or_none(body: bytes, left: float | None) -> None:
    assert read_credits(body) == left
