"""Payloads of webhooks in both forms, for each way in which a task can end."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.rules.budget import Budget, BudgetWarning, Period
from app.rules.request import TaskRequest
from app.rules.task import Failure, MoneySpent, Status
from app.web.schemas.webhooks import EXAMPLES, BudgetFacts, EventForm, ProviderForm
from app.webhooks.payload import Payload, budget_form, event_form, provider_form, with_link
from tests.rows import START

NOW = START + timedelta(seconds=6)
TASK = Task(
    id="task_1",
    key_id="key_1",
    application_id="app_1",
    provider="bfl",
    account_id="account",
    model="flux-kontext-pro",
    status=Status.STORED,
    failure=None,
    failure_detail=None,
    money_spent=None,
    request=TaskRequest({"prompt": "a red fox", "seed": 5}),
    warnings=[],
    priority=0,
    deadline_at=None,
    dispatch_after_at=START,
    attempt_id="sub_1",
    tries=0,
    cost=4,
    seed=7,
    sample_url="https://delivery.bfl.ai/a.png?sig=secret",
    sample_expires_at=None,
    created_at=START,
    stored_at=NOW,
)
RESULT = Result("task_1", "results/ab/abc.png", "abc", "image/png", 9, 3, 2, NOW)


def failed(failure: Failure, detail: str | None = None) -> Task:
    return replace(
        TASK, status=Status.FAILED, failure=failure, failure_detail=detail, money_spent=MoneySpent.MAYBE, stored_at=None
    )


def sent(payload: Payload, link: str) -> Any:
    """Return what a receiver reads of a payload that was stored and then sent with this link."""
    stored = json.loads(json.dumps(payload))
    return json.loads(json.dumps(with_link(stored, link)))


def test_the_provider_form_of_a_stored_task_has_result_and_timestamp() -> None:
    said = sent(provider_form(TASK, Status.STORED, NOW), "https://here/results/task_1.png")

    assert said == {
        "id": "task_1",
        "status": "Ready",
        "result": {"sample": "https://here/results/task_1.png", "prompt": "a red fox", "seed": 7},
        "timestamp": "2026-01-01T12:00:06.000Z",
    }


def test_without_a_reported_seed_the_requested_seed_is_sent() -> None:
    assert provider_form(replace(TASK, seed=None), Status.STORED, NOW)["result"]["seed"] == 5


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (Failure.REQUEST_MODERATED, "content_policy_violation", "Request Moderated"),
        (Failure.CONTENT_MODERATED, "content_policy_violation", "Content Moderated"),
        (Failure.OUT_OF_CREDITS, "insufficient_credits", "why"),
    ],
)
def test_the_provider_form_of_a_failure_has_the_providers_code(failure: Failure, error: str, message: str) -> None:
    said = provider_form(failed(failure, "why"), Status.FAILED, NOW)

    assert (said["status"], said["error"], said["message"]) == ("Error", error, message)


def test_every_failure_has_a_code_and_a_message_and_no_link() -> None:
    for failure in Failure:
        said = sent(provider_form(failed(failure), Status.FAILED, NOW), "https://here")
        assert said["error"]
        assert said["message"]
        assert "https://here" not in str(said)


def test_the_event_form_of_a_stored_task_has_the_whole_task() -> None:
    said = sent(event_form(TASK, RESULT, Status.STORED, NOW), "https://here/results/task_1.png")

    assert (said["type"], said["timestamp"]) == ("task.stored", "2026-01-01T12:00:06.000Z")
    assert said["data"]["task"]["image"] == {
        "url": "https://here/results/task_1.png",
        "sha256": "abc",
        "media_type": "image/png",
        "bytes": 9,
        "width": 3,
        "height": 2,
        "unverified_image": None,
    }
    assert said["data"]["task"]["ended_at"] == "2026-01-01T12:00:06.000Z"


def test_the_event_form_of_a_failed_task_has_money_spent() -> None:
    task = event_form(failed(Failure.UNKNOWN_OUTCOME, "lost"), None, Status.FAILED, NOW)["data"]["task"]

    assert task["failure"] == {"code": "unknown_outcome", "detail": "lost", "money_spent": "maybe"}
    assert task["image"] is None


def test_the_providers_link_is_not_sent() -> None:
    forms = [provider_form(TASK, Status.STORED, NOW), event_form(TASK, RESULT, Status.STORED, NOW)]

    assert all("bfl.ai" not in str(form) for form in forms)


@pytest.mark.parametrize("status", [Status.SUBMITTED, Status.STORED, Status.FAILED, Status.CANCELLED])
def test_every_payload_matches_the_openapi_document(status: Status) -> None:
    task = failed(Failure.PROVIDER_ERROR) if status is Status.FAILED else TASK
    ProviderForm.model_validate(provider_form(task, status, NOW), extra="forbid")
    EventForm.model_validate(event_form(task, RESULT, status, NOW), extra="forbid")


def test_a_budget_warning_matches_the_openapi_document_in_both_forms() -> None:
    warning = BudgetWarning.of(Budget(40, Period.DAY), 32.5, NOW)
    provider = ProviderForm.model_validate(budget_form("provider", "dlv_1", warning, NOW), extra="forbid")
    event = EventForm.model_validate(budget_form("event", "dlv_1", warning, NOW), extra="forbid")

    assert (provider.status, provider.type, provider.data) == ("Pending", event.type, event.data)
    assert isinstance(event.data, BudgetFacts)
    assert (event.data.spent, event.data.remaining) == (32.5, 7.5)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_matches_the_openapi_document(name: str) -> None:
    example: dict[str, Any] = EXAMPLES[name]
    form = ProviderForm if "status" in example else EventForm

    form.model_validate(example, extra="forbid")
