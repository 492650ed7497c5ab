from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.twin.conftest import Scene

HOOK = "http://receiver.test/hook"


async def test_the_answer_to_a_task_without_a_webhook_has_a_polling_url(scene: Scene) -> None:
    answer = (await scene.submit()).json()

    assert answer["polling_url"] == f"http://twin.test/v1/get_result?id={answer['id']}"
    assert answer["cost"] == 4
    assert "status" not in answer


async def test_the_answer_to_a_task_with_a_webhook_has_no_polling_url(scene: Scene) -> None:
    answer = (await scene.called()).json()

    assert answer.keys() == {"id", "status", "webhook_url", "cost", "input_mp", "output_mp"}


async def test_a_rule_adds_the_polling_url_to_a_task_with_a_webhook(scene: Scene) -> None:
    await scene.rules(polling_url_with_webhook=True)

    assert "polling_url" in (await scene.called()).json()


async def test_a_rule_settles_for_another_cost_in_polls_and_callbacks(scene: Scene) -> None:
    await scene.rules(settled_cost=0)
    answer = (await scene.called()).json()
    pending = (await scene.poll(answer["id"])).json()
    await scene.after(2)
    done = (await scene.poll(answer["id"])).json()

    assert (answer["cost"], pending.get("cost"), done["cost"]) == (4, None, 0)
    assert [got.json["cost"] for got in scene.receiver.got] == [0]
    assert (await scene.ledger())["charged"] == 0


async def test_a_task_is_pending_until_its_time_and_then_ready(scene: Scene) -> None:
    task_id = (await scene.submit("a lake", seed=7)).json()["id"]
    scene.clock.advance(1)
    halfway = (await scene.poll(task_id)).json()
    scene.clock.advance(1)
    done = (await scene.poll(task_id)).json()

    assert (halfway["status"], halfway["progress"], halfway["result"]) == ("Pending", 0.5, None)
    assert done["status"] == "Ready"
    assert done["result"]["seed"] == 7
    assert done["result"]["prompt"] == "a lake"
    assert done["result"]["end_time"] - done["result"]["start_time"] == done["result"]["duration"] == 2


async def test_a_rule_enables_the_newer_interim_statuses(scene: Scene) -> None:
    await scene.rules(newer_statuses=True)
    task_id = (await scene.submit()).json()["id"]
    first = (await scene.poll(task_id)).json()["status"]
    scene.clock.advance(1)

    assert (first, (await scene.poll(task_id)).json()["status"]) == ("Reasoning", "Generating")


async def test_the_seventh_max_task_is_refused_until_a_slot_is_free(scene: Scene) -> None:
    async def submit() -> int:
        return (await scene.client.post("/v1/flux-kontext-max", json={"prompt": "x"})).status_code

    statuses = [await submit() for _ in range(7)]
    scene.clock.advance(2)

    assert statuses == [200] * 6 + [429]
    assert await submit() == 200


async def test_pro_and_max_share_the_24_slots_of_an_account(scene: Scene) -> None:
    for _ in range(6):
        await scene.client.post("/v1/flux-kontext-max", json={"prompt": "x"})
    statuses = [(await scene.submit()).status_code for _ in range(19)]

    assert statuses == [200] * 18 + [429]
    high = {"flux-kontext-pro": 18, "flux-kontext-max": 6, "account": 24}
    assert (await scene.ledger())["max_in_flight"] == high


async def test_slots_are_exact_under_simultaneous_submits(scene: Scene) -> None:
    answers = await asyncio.gather(*(scene.submit() for _ in range(40)))

    assert sorted(answer.status_code for answer in answers) == [200] * 24 + [429] * 16


async def test_another_key_has_its_own_slots_and_credits(scene: Scene) -> None:
    await scene.rules(account_slots=1, credits=4)
    await scene.submit()
    theirs = await scene.client.post("/v1/flux-kontext-pro", json={"prompt": "x"}, headers={"x-key": "other"})

    assert theirs.status_code == 200
    assert (await scene.client.get("/v1/credits")).json() == {"credits": 0}


async def test_each_provider_refuses_an_empty_account_in_its_own_form(scene: Scene) -> None:
    await scene.rules(credits=3)
    bfl = await scene.submit()
    gptproto = await scene.client.post("/flux/v1/flux-kontext-pro", json={"prompt": "x"})

    assert bfl.status_code == 402
    assert gptproto.status_code == 403
    assert gptproto.json() == {"error": {"message": "Insufficient balance", "type": "403"}}


@pytest.mark.parametrize("headers", [{"x-key": "bad"}, {"x-key": ""}])
async def test_a_bad_or_missing_key_is_not_authenticated(scene: Scene, headers: dict[str, str]) -> None:
    answer = await scene.client.post("/v1/flux-kontext-pro", json={"prompt": "x"}, headers=headers)

    assert answer.status_code == 403
    assert answer.json()["detail"].startswith("Not authenticated")


async def test_gptproto_reads_the_authorization_header_with_or_without_bearer(scene: Scene) -> None:
    async def status(value: str) -> int:
        headers = {"authorization": value}
        path = "/flux/v1/flux-kontext-pro"
        return (await scene.client.post(path, json={"prompt": "x"}, headers=headers)).status_code

    assert [await status(value) for value in ("sk-1", "Bearer sk-1", "Bearer bad")] == [200, 200, 403]


@pytest.mark.parametrize(
    ("fields", "field", "kind"),
    [
        ({"user": ""}, "user", "string_too_short"),
        ({"aspect_ratio": "22:9"}, "aspect_ratio", "value_error"),
        ({"aspect_ratio": "wide"}, "aspect_ratio", "value_error"),
        ({"safety_tolerance": 7}, "safety_tolerance", "less_than_equal"),
        ({"output_format": "gif"}, "output_format", "literal_error"),
        ({"webhook_url": "ftp://x"}, "webhook_url", "url_scheme"),
        ({"input_image": "data:image/png;base64,AAAA"}, "input_image", "value_error"),
        ({"input_image": "not base64!"}, "input_image", "value_error"),
        ({"input_image_2": "AAAA"}, "input_image_2", "value_error"),
    ],
)
async def test_an_invalid_body_is_refused_with_a_list_of_errors(
    scene: Scene, fields: dict[str, object], field: str, kind: str
) -> None:
    answer = await scene.submit("x", **fields)

    assert answer.status_code == 422
    (error,) = answer.json()["detail"]
    assert (error["loc"], error["type"]) == (["body", field], kind)


async def test_a_rule_selects_the_error_form_of_the_skills_guide(scene: Scene) -> None:
    await scene.rules(errors="skills")
    answer = await scene.client.post("/v1/flux-kontext-pro", json={"prompt": "x"}, headers={"x-key": "bad"})

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_api_key")


async def test_an_unknown_task_and_an_unknown_model_are_404(scene: Scene) -> None:
    unknown = await scene.poll("unknown")

    assert (unknown.status_code, unknown.json()["status"]) == (404, "Task not found")
    assert (await scene.client.post("/v1/flux-nine", json={"prompt": "x"})).status_code == 404


async def test_a_task_is_unknown_an_hour_after_it_ended(scene: Scene) -> None:
    task_id = (await scene.submit()).json()["id"]
    scene.clock.advance(2 + 3600)

    assert (await scene.poll(task_id)).status_code == 404


@pytest.mark.parametrize(
    ("prompt", "status", "cost"),
    [
        ("something forbidden", "Request Moderated", 0),
        ("an unsafe result", "Content Moderated", 4),
        ("an invalid image", "Error", 4),
        ("please fail", "Error", 4),
    ],
)
async def test_words_in_the_prompt_decide_the_outcome(scene: Scene, prompt: str, status: str, cost: float) -> None:
    answer = (await scene.submit(prompt)).json()
    scene.clock.advance(2)
    ended = (await scene.poll(answer["id"])).json()

    assert (ended["status"], answer["cost"], ended["result"]) == (status, cost, None)
    assert ended["details"]


async def test_a_rule_reports_failed_tasks_with_an_http_error(scene: Scene) -> None:
    await scene.rules(failed_http=422)
    task_id = (await scene.submit("please fail")).json()["id"]
    scene.clock.advance(2)
    answer = await scene.poll(task_id)

    assert (answer.status_code, answer.json()["status"]) == (422, "Error")


async def test_a_task_that_never_finishes_keeps_its_slot(scene: Scene) -> None:
    await scene.rules(account_slots=1)
    await scene.submit("this never finishes")
    scene.clock.advance(86_400)

    assert (await scene.submit()).status_code == 429


async def test_gptproto_refuses_a_moderated_request_with_503(scene: Scene) -> None:
    answer = await scene.client.post("/flux/v1/flux-kontext-pro", json={"prompt": "forbidden"})

    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "503")
    assert (await scene.ledger())["accepted"] == 0


async def test_gptproto_names_times_in_camel_case(scene: Scene) -> None:
    task_id = (await scene.client.post("/flux/v1/flux-kontext-pro", json={"prompt": "x"})).json()["id"]
    scene.clock.advance(2)
    result = (await scene.client.get("/flux/v1/get_result", params={"id": task_id})).json()["result"]

    assert {"startTime", "endTime", "sample"} <= result.keys()


async def test_unknown_faults_and_rules_are_named(scene: Scene) -> None:
    for path in ("/twin/faults", "/twin/rules"):
        answer = await scene.client.put(path, json={"explode": 1})
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "explode"]
    assert (await scene.client.put("/twin/rules", json={"profile": "z"})).status_code == 422


async def test_a_change_of_rules_keeps_the_rules_that_it_does_not_name(scene: Scene) -> None:
    await scene.rules(ready_after_s=0.2, profile="c")
    rules = (await scene.client.get("/twin/rules")).json()

    assert (rules["ready_after_s"], rules["payload"], rules["megapixels"]) == (0.2, "field", 0.02)


async def test_a_reset_deletes_everything_and_never_reuses_an_id(scene: Scene) -> None:
    before = (await scene.called()).json()["id"]
    await scene.faults(drop_callback=1)
    await scene.client.post("/twin/reset")
    after = (await scene.submit()).json()["id"]
    await scene.after(2)

    assert before != after
    assert (await scene.ledger())["accepted"] == 1
    assert scene.receiver.got == []
    assert (await scene.client.get("/twin/faults")).json()["drop_callback"] == 0


async def test_the_ledger_contains_no_key_and_no_prompt(scene: Scene) -> None:
    await scene.submit("a very private prompt")
    written = (await scene.client.get("/twin/ledger")).text

    assert "private" not in written
    assert '"good"' not in written
