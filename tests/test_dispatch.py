import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.util import await_only
from structlog.testing import capture_logs

from app import jobs
from app.db import Connection
from app.db.tables import attempts as attempts_table
from app.db.tables import tasks
from app.dispatch import dispatch
from app.errors import Unavailable
from app.provider import ProviderResponse, SubmitRequest
from app.rules.task import MAX_TRIES, Failure, Outcome, Report, Said, Status, Witness
from app.security.keyring import KeyRing
from app.settle import settle
from app.transitions import moves
from app.transitions.changes import evidence_of
from app.twin import Faults
from app.twin.rules import Profile, preset
from tests.calling import Scripted, answering, attempt_of, caller_of, everything, small, submitted
from tests.pictures import in_base64, photo, picture
from tests.rows import put_account, stored_jobs
from tests.world import GATEWAY, RING_KEY, World, open_world, provider_of, with_provider

TAKEN = ProviderResponse(Report(Said.PENDING, "p1", cost=4.0), 200, {}, b'{"id": "p1"}')


async def test_task_attempt_and_next_job_are_recorded_before_the_request_is_sent(each_world: World) -> None:
    seen: list[object] = []

    async def look(_: SubmitRequest) -> ProviderResponse:
        def read(connection: Connection) -> tuple[object, ...]:
            task = tasks.get(connection, task_id)
            attempts = attempts_table.of_task(connection, task_id)
            left = [job for job in stored_jobs(connection) if job.state == "waiting"]
            assert task is not None
            return task.status, [each.outcome for each in attempts], [job.step for job in left]

        seen.extend(await each_world.use.db.read(read))
        return TAKEN

    task_id = await each_world.post()
    each_world.use = with_provider(each_world.use, Scripted(look))
    await each_world.work()

    assert seen == [Status.SUBMITTING, [Outcome.UNKNOWN], ["reconcile"]]
    assert (await each_world.task(task_id))["status"] == "submitted"


async def test_every_field_is_sent_with_the_callback_url_and_secret_of_the_attempt(world: World) -> None:
    task_id = await world.post(input_image=in_base64(picture()), seed=7, output_format="jpeg")
    provider = answering(TAKEN)
    await dispatch(with_provider(world.use, provider), task_id)
    (order,) = provider.orders
    caller = await caller_of(world, task_id)

    assert dict(order.params) == {
        "prompt": "a red fox",
        "seed": 7,
        "output_format": "jpeg",
        "prompt_upsampling": False,
        "safety_tolerance": 2,
    }
    assert list(order.images) == ["input_image"]
    assert order.webhook_url == f"{GATEWAY}/callbacks/{caller.attempt_id}/{caller.proof.token}"
    assert order.webhook_secret == caller.proof.secret


async def test_without_images_the_ratio_is_sent_explicitly_because_the_defaults_differ(world: World) -> None:
    provider = answering(TAKEN)
    await dispatch(with_provider(world.use, provider), await world.post())

    assert provider.orders[0].params["aspect_ratio"] == "1:1"


async def test_without_a_public_url_no_callback_is_requested(world: World) -> None:
    provider = answering(TAKEN)
    await dispatch(replace(with_provider(world.use, provider), public_url=None), await world.post())

    assert (provider.orders[0].webhook_url, provider.orders[0].webhook_secret) == (None, None)


async def test_each_attempt_has_its_own_callback_url_and_secret(world: World) -> None:
    task_id = await world.post()
    provider = answering(ProviderResponse(Report(Said.DOWN)), TAKEN)
    world.use = with_provider(world.use, provider)
    await world.work()
    world.clock.advance(2)
    await world.work()
    first, second = provider.orders

    assert first.webhook_url != second.webhook_url
    assert first.webhook_secret != second.webhook_secret
    assert [entry["number"] for entry in await world.timeline(task_id, "submission")] == [1, 2]


async def test_an_attempt_whose_signing_key_is_gone_is_replaced_before_it_is_sent(world: World) -> None:
    task_id = await world.post()
    newer = KeyRing(("another-ring-key-for-tests-0123456789",))
    await dispatch(replace(with_provider(world.use, answering(TAKEN)), keys=newer), task_id)

    assert (await attempt_of(world, task_id, 1)).outcome is Outcome.PLANNED
    assert (await attempt_of(world, task_id, 2)).signing_key_id == newer.newest


async def test_an_attempt_planned_under_an_older_key_keeps_it(world: World) -> None:
    task_id = await world.post()
    rotated = KeyRing(("another-ring-key-for-tests-0123456789", RING_KEY))
    provider = answering(TAKEN)
    await dispatch(replace(with_provider(world.use, provider), keys=rotated), task_id)
    caller = await caller_of(world, task_id)

    assert provider.orders[0].webhook_secret == caller.proof.secret


@pytest.mark.parametrize(
    ("report", "status", "failure", "spent"),
    [
        (Report(Said.PENDING, "p1"), "submitted", None, None),
        (Report(Said.BUSY), "queued", None, None),
        (Report(Said.DOWN), "queued", None, None),
        (Report(Said.LOST), "submitting", None, None),
        (Report(Said.REFUSED, failure=Failure.PROVIDER_REJECTED), "failed", "provider_rejected", "no"),
        (Report(Said.REFUSED, failure=Failure.OUT_OF_CREDITS), "failed", "out_of_credits", "no"),
        (Report(Said.REFUSED, failure=Failure.REQUEST_MODERATED), "failed", "request_moderated", "no"),
    ],
    ids=lambda value: str(getattr(value, "said", value)),
)
async def test_each_answer_moves_the_task_to_the_matching_state(
    world: World, report: Report, status: str, failure: str | None, spent: str | None
) -> None:
    task_id = await world.post()
    await dispatch(with_provider(world.use, answering(ProviderResponse(report, 200))), task_id)
    task = await world.task(task_id)

    assert task["status"] == status
    assert (task["failure"] or {}).get("code") == failure
    assert (task["failure"] or {}).get("money_spent") == spent


async def test_a_provider_that_stays_down_ends_the_task_at_no_cost(world: World) -> None:
    task_id = await world.post()
    provider = answering(*[ProviderResponse(Report(Said.DOWN, detail="HTTP 503"), 503)] * (MAX_TRIES + 1))
    world.use = with_provider(world.use, provider)
    for _ in range(MAX_TRIES + 5):
        await world.work()
        world.clock.advance(80)
    task = await world.task(task_id)

    assert len(provider.orders) == MAX_TRIES
    assert (task["status"], task["failure"]["money_spent"]) == ("failed", "no")


async def test_a_submission_to_a_full_provider_is_retried_without_limit(world: World) -> None:
    small(world)
    world.twin.faults = Faults(submit_429=1)
    task_id = await world.post()
    for _ in range(MAX_TRIES + 5):
        await world.work()
        world.clock.advance(80)
    world.twin.faults = Faults()
    await world.work()
    await world.go_on(5)

    assert (await world.task(task_id))["status"] == "stored"
    assert world.ledger()["accepted"] == 1


async def test_a_task_without_a_free_slot_is_sent_again_after_the_pause(world: World) -> None:
    small(world)
    world.twin.faults = Faults(submit_429=1)
    task_id = await world.post()
    await world.work()
    world.twin.faults = Faults()
    world.clock.advance(1)
    await world.work()

    assert (await world.task(task_id))["status"] == "submitted"


async def test_a_task_that_was_cancelled_during_its_submission_is_not_resent(each_world: World) -> None:
    async def refusing(_: SubmitRequest) -> ProviderResponse:
        await each_world.api.post(f"/v1/tasks/{task_id}/cancel")
        return ProviderResponse(Report(Said.DOWN), 503)

    task_id = await each_world.post()
    await dispatch(with_provider(each_world.use, Scripted(refusing)), task_id)
    await each_world.go_on(5)

    assert (await each_world.task(task_id))["status"] == "cancelled"
    assert each_world.ledger()["accepted"] == 0


async def test_resubmitting_a_task_withdraws_its_cancellation(world: World) -> None:
    caller = await submitted(world)
    await world.api.post(f"/v1/tasks/{caller.task_id}/cancel")
    await caller.call({"id": caller.ready()["id"], "status": "Error"})
    await world.api.post(f"/v1/tasks/{caller.task_id}/resubmit")
    world.twin.faults = Faults(submit_5xx=1)
    await world.work()
    world.twin.faults = Faults()
    await world.go_on(5)
    task = await world.task(caller.task_id)

    assert (task["status"], task["unwanted"]) == ("stored", False)


async def test_a_task_with_a_lost_answer_is_never_resent_and_its_callback_finishes_it(each_world: World) -> None:
    caller = await submitted(each_world, faults=Faults(lose_answer_after=1))
    before = await each_world.task(caller.task_id)
    await each_world.work()
    await each_world.go_on(5)
    task, ledger = await each_world.task(caller.task_id), each_world.ledger()

    assert before["status"] == "submitting"
    assert task["status"] == "stored"
    assert (ledger["accepted"], ledger["charged"]) == (1, 4)
    assert (await attempt_of(each_world, caller.task_id)).provider_id == ledger["tasks"][0]["id"]


async def test_a_lost_answer_without_evidence_fails_as_unknown_after_the_evidence_window(world: World) -> None:
    caller = await submitted(world, faults=Faults(lose_answer_before=1))
    await world.go_on(70, 10)
    held = (await world.task(caller.task_id))["status"]
    await world.go_on(900, 30)
    task = await world.task(caller.task_id)

    assert held == "submitting"
    assert (task["status"], task["failure"]["code"], task["failure"]["money_spent"]) == (
        "failed",
        "unknown_outcome",
        "maybe",
    )
    assert world.ledger()["accepted"] == 0
    assert len(world.ledger()["refused"]) == 1


async def test_a_task_that_was_dispatched_already_is_not_submitted_again(world: World) -> None:
    caller = await submitted(world)
    for _ in range(3):
        await dispatch(world.use, caller.task_id)
    await dispatch(world.use, "task_none")

    assert world.ledger()["accepted"] == 1


async def test_without_a_provider_key_a_queued_task_keeps_its_job_until_there_is_one(world: World) -> None:
    task_id = await world.post()
    configured = world.use
    world.use = with_provider(world.use, None)
    for _ in range(20):
        await world.work()
        world.clock.advance(400)
    held = len(await world.use.db.read(jobs.dead_letters))
    world.use = configured
    await world.work()

    assert held == 0
    assert (await world.task(task_id))["status"] == "submitted"


async def test_dispatching_without_a_provider_is_a_temporary_error(world: World) -> None:
    task_id = await world.post()
    with pytest.raises(Unavailable):
        await dispatch(with_provider(world.use, None), task_id)


@pytest.mark.parametrize("profile", ["a", "b", "c", "none"])
async def test_the_database_holds_nothing_that_could_forge_a_callback(each_world: World, profile: Profile) -> None:
    rules = preset(profile).model_copy(update={"megapixels": 0.02, "polling_url_with_webhook": True})
    each_world.twin.rules = rules
    each_world.twin.faults = Faults(forge_callback=1)
    task_id = await each_world.post()
    await each_world.work()
    await each_world.go_on(30)
    caller = await caller_of(each_world, task_id)
    dump = await each_world.use.db.read(everything)

    assert (await each_world.task(task_id))["status"] == "stored"
    assert caller.attempt_id.encode() in dump
    assert caller.proof.token.encode() not in dump
    assert caller.proof.secret.encode() not in dump


async def test_token_and_secret_that_the_provider_echoes_are_not_stored(each_world: World) -> None:
    async def echo(order: SubmitRequest) -> ProviderResponse:
        text = f"bad webhook {order.webhook_url} {order.webhook_secret}"
        return ProviderResponse(Report(Said.PENDING, "p1", detail=text), 200, {}, text.encode())

    task_id = await each_world.post()
    provider = Scripted(echo)
    each_world.use = with_provider(each_world.use, provider)
    await each_world.work()
    text = f"{provider.orders[0].webhook_url} {provider.orders[0].webhook_secret}"
    provider.fetched = ProviderResponse(Report(Said.PENDING, "p1", detail=text), 200, {}, text.encode())
    each_world.clock.advance(30)
    await each_world.work()
    caller = await caller_of(each_world, task_id)
    await caller.call({"id": "p1", "status": "Error", "error": text})
    await caller.call(text.encode(), {"x-signature": caller.proof.secret})
    dump = await each_world.use.db.read(everything)

    assert len(provider.asked) == 1
    assert b"bad webhook" in dump
    assert caller.proof.token.encode() not in dump
    assert caller.proof.secret.encode() not in dump


async def test_during_a_submission_the_reconcile_job_waits_for_its_deadline(world: World) -> None:
    task_id = await world.post()
    looks: list[Any] = []

    async def submitting(_: SubmitRequest) -> ProviderResponse:
        looks.extend(await world.use.db.read(stored_jobs))
        return ProviderResponse(Report(Said.LOST))

    await dispatch(with_provider(world.use, Scripted(submitting)), task_id)

    assert [look.run_at - world.clock() for look in looks if look.step == "reconcile"] == [timedelta(seconds=65)]


async def test_a_task_whose_input_image_is_missing_fails_and_frees_its_slot(world: World) -> None:
    await world.use.db.write(lambda connection: put_account(connection, account=1))
    task_id = await world.post(input_image=in_base64(picture()))
    (image,) = [path for path in (world.use.scratch / "images").rglob("*") if path.is_file()]
    image.unlink()
    other = await world.post()
    await world.work()
    task = await world.task(task_id)

    assert (task["status"], task["failure"]["code"], task["failure"]["money_spent"]) == ("failed", "asset_lost", "no")
    assert "no longer in the store" in task["failure"]["detail"]
    assert (await world.task(other))["status"] == "submitted"


async def test_a_truncated_input_image_is_not_sent_and_posting_it_again_stores_it_completely(each_world: World) -> None:
    image = in_base64(picture())
    task_id = await each_world.post(input_image=image)
    (file,) = [path for path in (each_world.use.scratch / "images").rglob("*") if path.is_file()]
    file.write_bytes(file.read_bytes()[:100])  # truncated, as after a copy to a full disk
    await each_world.work()
    sent = len(each_world.ledger()["tasks"])
    again = await each_world.post(input_image=image)
    await each_world.work()

    assert ((await each_world.task(task_id))["failure"]["money_spent"], sent) == ("no", 0)
    assert (await each_world.task(again))["status"] == "submitted"


async def test_a_task_waits_while_the_store_of_its_input_image_is_unavailable(
    each_world: World, tmp_path: Path
) -> None:
    task_id = await each_world.post(input_image=in_base64(picture()))
    root = tmp_path / "images"
    root.rename(tmp_path / "gone")
    await each_world.go_on(120, 20)
    waiting = (await each_world.task(task_id))["status"]
    (tmp_path / "gone").rename(root)
    await each_world.go_on(400, 20)

    assert (waiting, (await each_world.task(task_id))["status"]) == ("queued", "stored")


async def test_a_task_waits_while_its_input_image_cannot_be_copied_to_the_local_disk(
    world: World, tmp_path: Path
) -> None:
    task_id = await world.post(input_image=in_base64(photo("PNG")))  # too large to be copied to memory
    usable = world.use
    world.use = replace(usable, scratch=tmp_path / "gone")
    with capture_logs() as lines:
        await world.go_on(3600, 300)
    waiting = (await world.task(task_id))["status"]
    world.use = usable
    await world.go_on(400, 20)

    assert {line["resource"] for line in lines if line["event"] == "job" and line["outcome"] == "failed"} == {"disk"}
    assert (waiting, (await world.task(task_id))["status"]) == ("queued", "stored")


async def test_an_answer_during_a_database_outage_is_recorded_after_it(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without callbacks, polling is the only way to learn the outcome."""
    async with open_world(tmp_path, sqlite_url, public_url=None, evidence_window=timedelta()) as world:
        monkeypatch.setattr("app.db.engine.sqlite._BUSY_S", 0)
        ask = provider_of(world.use).submit
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as somebody:

            async def answered_meanwhile(order: SubmitRequest) -> ProviderResponse:
                answer = await ask(order)
                somebody.execute("BEGIN IMMEDIATE")
                asyncio.get_running_loop().call_later(0.2, somebody.execute, "ROLLBACK")
                return answer

            task_id = await world.post()
            await dispatch(with_provider(world.use, Scripted(answered_meanwhile)), task_id)
        await world.go_on(10)

        assert (await world.task(task_id))["status"] == "stored"
        assert world.ledger()["accepted"] == 1


async def test_on_postgresql_a_task_that_is_cancelled_while_the_provider_refuses_is_not_resent(
    tmp_path: Path, postgres_url: str
) -> None:
    blocked = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(120), open_world(tmp_path, postgres_url) as world:

        def refuse(connection: Connection) -> None:
            given = evidence_of(
                attempt.id, Witness.SUBMIT, ProviderResponse(Report(Said.DOWN), 503), None, world.clock()
            )
            settle(connection, [given], poll_after=timedelta(minutes=1))
            moves.cancel_if_requested(connection, task_id, world.clock())
            refused.set()
            while not connection.execute(blocked).scalar_one():
                await_only(asyncio.sleep(0.01))

        task_id = await world.post()
        world.twin.faults = Faults(lose_answer_before=1)
        await world.work()
        world.twin.faults = Faults()
        attempt, refused = await attempt_of(world, task_id), asyncio.Event()
        refusing = asyncio.create_task(world.use.db.write(refuse))
        await refused.wait()
        cancelled = await world.api.post(f"/v1/tasks/{task_id}/cancel")
        await refusing
        await world.go_on(60, 5)

        assert cancelled.status_code == 200
        assert (await world.task(task_id))["status"] == "cancelled"
        assert world.ledger()["accepted"] == 0
