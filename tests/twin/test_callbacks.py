from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from app.security.sign import bfl_signature

if TYPE_CHECKING:
    from tests.twin.conftest import Scene


async def test_by_default_a_callback_carries_the_secret_in_a_header(scene: Scene) -> None:
    task_id = (await scene.called(seed=5)).json()["id"]
    await scene.after(2)
    (got,) = scene.receiver.got

    assert got.headers["x-webhook-secret"] == "s3cret"
    assert "x-bfl-signature" not in got.headers
    assert (got.json["id"], got.json["status"]) == (task_id, "Ready")
    assert got.json["result"].keys() == {"sample", "prompt", "seed"}
    assert got.json["timestamp"] == "2026-01-02T12:00:02Z"


async def test_a_callback_can_be_signed_over_its_raw_body(scene: Scene) -> None:
    await scene.rules(profile="a")
    await scene.called()
    await scene.after(2)
    (got,) = scene.receiver.got

    assert got.headers["x-bfl-signature"] == bfl_signature("s3cret", got.body)
    assert "x-webhook-secret" not in got.headers


async def test_the_link_in_a_callback_returns_the_image(scene: Scene) -> None:
    await scene.called()
    await scene.after(2)
    answer = await scene.client.get(scene.receiver.got[0].json["result"]["sample"])

    assert answer.status_code == 200


async def test_nothing_is_sent_before_the_task_is_ready(scene: Scene) -> None:
    await scene.called()
    await scene.after(1.9)

    assert scene.receiver.got == []


async def test_tick_returns_when_the_next_event_is_due(scene: Scene) -> None:
    await scene.submit()
    due_at = await scene.twin.tick()
    scene.clock.advance(2)

    assert due_at is not None
    assert due_at == scene.clock.at
    assert await scene.twin.tick() is None


async def test_without_a_secret_nothing_is_signed(scene: Scene) -> None:
    await scene.called(webhook_secret=None)
    await scene.after(2)

    assert "x-bfl-signature" not in scene.receiver.got[0].headers


@pytest.mark.parametrize(
    ("profile", "header", "key"),
    [("a", "x-bfl-signature", "id"), ("b", "x-webhook-secret", "id"), ("c", "x-webhook-secret", "task_id")],
)
async def test_each_profile_has_its_own_proof_and_payload(scene: Scene, profile: str, header: str, key: str) -> None:
    await scene.rules(profile=profile, interim_callbacks=False)
    task_id = (await scene.called()).json()["id"]
    await scene.after(2)
    (got,) = scene.receiver.got

    assert header in got.headers
    assert got.json[key] == task_id


async def test_the_profile_that_never_signs_sends_no_proof(scene: Scene) -> None:
    await scene.rules(profile="none")
    await scene.called()
    await scene.after(2)

    assert not {"x-bfl-signature", "x-webhook-secret"} & scene.receiver.got[0].headers.keys()


async def test_the_field_payload_sends_an_interim_callback_first(scene: Scene) -> None:
    await scene.rules(profile="c")
    await scene.called()
    await scene.after(1)
    await scene.after(1)

    assert [got.json["status"] for got in scene.receiver.got] == ["processing", "SUCCESS"]
    assert scene.receiver.got[0].headers["x-webhook-secret"] == "s3cret"


@pytest.mark.parametrize(("prompt", "status"), [("fail", "FAILED"), ("unsafe result", "Content Moderated")])
async def test_the_field_payload_has_its_own_statuses_for_failures(scene: Scene, prompt: str, status: str) -> None:
    await scene.rules(profile="c", interim_callbacks=False)
    await scene.called(prompt)
    await scene.after(2)

    assert scene.receiver.got[0].json["status"] == status


async def test_the_documented_payload_has_a_code_and_a_message_for_failures(scene: Scene) -> None:
    await scene.called("an unsafe result")
    await scene.after(2)
    body = scene.receiver.got[0].json

    assert (body["status"], body["error"]) == ("Error", "content_policy_violation")
    assert body["message"] == "Content Moderated"


async def test_a_failed_callback_is_sent_again_after_1_5_and_30_seconds(scene: Scene) -> None:
    scene.receiver.answers = [503] * 9
    await scene.called()
    waits = []
    scene.clock.advance(2)
    while (due_at := await scene.twin.tick()) is not None:
        waits.append((due_at - scene.clock.at).total_seconds())
        scene.clock.at = due_at
    (task,) = (await scene.ledger())["tasks"]

    assert waits == [1, 5, 30]
    assert [(sent["attempt"], sent["answered"]) for sent in task["callbacks"]] == [(n, 503) for n in (1, 2, 3, 4)]
    assert len({got.body for got in scene.receiver.got}) == 1


async def test_an_accepted_callback_is_not_sent_again(scene: Scene) -> None:
    scene.receiver.answers = [500]
    await scene.called()
    await scene.after(2)
    await scene.after(1)
    await scene.after(60)

    assert len(scene.receiver.got) == 2


async def test_a_redirect_counts_as_a_failure(scene: Scene) -> None:
    scene.receiver.answers = [307]
    await scene.called()
    await scene.after(2)
    await scene.after(1)

    assert len(scene.receiver.got) == 2


async def test_a_rule_withholds_callbacks_of_moderated_tasks(scene: Scene) -> None:
    await scene.rules(moderated_called_back=False)
    await scene.called("forbidden")
    await scene.after(2)

    assert scene.receiver.got == []
    assert (await scene.ledger())["tasks"][0]["callbacks_withheld"]
