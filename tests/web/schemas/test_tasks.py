"""The response models of tasks, built from rows alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db.tables import evidence
from app.db.tables.attempts import Attempt
from app.db.tables.downloads import Download
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.rules.request import TaskRequest
from app.rules.task import Effect, Failure, MoneySpent, Outcome, Said, Status, Witness
from app.web.schemas.tasks import task_view
from app.web.schemas.timeline import timeline_view

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
LINK = "https://delivery-eu1.bfl.ai/fox.png?se=2026&sig=secret"
TASK = Task(
    id="task_1",
    key_id="key_admin",
    application_id="app_admin",
    provider="bfl",
    account_id="account",
    model="flux-kontext-pro",
    status=Status.READY,
    failure=None,
    failure_detail=None,
    money_spent=None,
    request=TaskRequest(
        {
            "prompt": "a red fox",
            "seed": None,
            "aspect_ratio": None,
            "output_format": "png",
            "prompt_upsampling": False,
            "safety_tolerance": 2,
        }
    ),
    warnings=["small"],
    priority=0,
    deadline_at=None,
    dispatch_after_at=START,
    attempt_id="sub_1",
    tries=0,
    cost=4.0,
    seed=2**70,
    sample_url=LINK,
    sample_expires_at=START,
    created_at=START,
    submitting_at=START + timedelta(seconds=1),
    submitted_at=START + timedelta(seconds=2),
    ready_at=START + timedelta(seconds=7),
)


def row(kind: Any, **given: Any) -> Any:
    """Return a row of this class in which only the given fields are set."""
    return kind(**{name: given.get(name) for name in kind.__dataclass_fields__})


def attempt(**given: Any) -> Any:
    base = {"id": "sub_1", "number": 1, "provider": "bfl", "outcome": Outcome.ACCEPTED}
    return row(Attempt, **base, **given)


def heard(seconds: float, witness: Witness) -> Any:
    at = START + timedelta(seconds=seconds)
    return row(
        evidence.EvidenceRow,
        id="ev_1",
        attempt_id="sub_1",
        witness=witness,
        verdict="signed",
        said=Said.READY,
        effect=Effect.MOVED,
        digest="0" * 64,
        copies=2,
        received_at=at,
        last_received_at=at + timedelta(seconds=1),
    )


def test_a_state_that_is_not_reached_has_no_time() -> None:
    view = task_view(TASK, None)

    assert (view.ready_at, view.stored_at, view.failed_at) == (TASK.ready_at, None, None)


def test_the_providers_link_is_in_no_view() -> None:
    assert "sig=" not in task_view(TASK, None).model_dump_json()
    assert "sig=" not in timeline_view(TASK, [], [], []).model_dump_json()


def test_a_seed_of_any_size_is_shown_whole() -> None:
    assert task_view(TASK, None).seed == 2**70


@pytest.mark.parametrize("money_spent", MoneySpent)
def test_a_failure_shows_money_spent(money_spent: MoneySpent) -> None:
    failed = replace(TASK, status=Status.FAILED, failure=Failure.ASSET_LOST, money_spent=money_spent)
    failure = task_view(failed, None).failure

    assert failure is not None
    assert (failure.code, failure.money_spent) == (Failure.ASSET_LOST, money_spent)


def test_the_image_url_is_a_route_of_fluxhook() -> None:
    kept = {"task_id": "task_1", "store_key": "results/ab/abc.png", "sha256": "abc", "media_type": "image/png"}
    image = task_view(TASK, row(Result, **kept, bytes=9, width=3, height=2)).image

    assert image is not None
    assert image.model_dump() == {
        "url": "/v1/tasks/task_1/image",
        "sha256": "abc",
        "media_type": "image/png",
        "bytes": 9,
        "width": 3,
        "height": 2,
        "unverified_image": None,
        "content_credentials": None,
        "removed_at": None,
    }


def test_the_timeline_is_chronological_and_a_cause_comes_before_its_effect() -> None:
    told = [heard(7, Witness.CALLBACK), heard(2, Witness.SUBMIT)]
    download = {"started_at": START + timedelta(seconds=8), "ended_at": START + timedelta(seconds=9)}
    entries = timeline_view(
        TASK,
        [attempt(sent_at=START + timedelta(seconds=1))],
        told,
        [row(Download, **download, outcome="stored")],
    ).entries

    shown = [entry.status if entry.event == "phase" else entry.event for entry in entries]
    assert shown == [
        "queued",
        "submitting",
        "submission",
        "evidence",
        "submitted",
        "evidence",
        "ready",
        "download",
    ]


def test_a_planned_attempt_is_not_in_the_timeline() -> None:
    entries = timeline_view(TASK, [attempt(sent_at=None)], [], []).entries

    assert {entry.event for entry in entries} == {"phase"}
