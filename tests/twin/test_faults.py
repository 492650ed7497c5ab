from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.security.sign import bfl_signature
from app.twin import Faults

if TYPE_CHECKING:
    from tests.twin.conftest import Scene


@given(seed=st.integers(), probability=st.floats(0, 1))
def test_the_same_seed_affects_the_same_tasks(seed: int, probability: float) -> None:
    def affected() -> list[bool]:
        faults = Faults(seed=seed, drop_callback=probability)
        return [faults.strikes("drop_callback", n) for n in range(20)]

    assert affected() == affected()


def test_a_probability_is_the_approximate_frequency_of_a_fault() -> None:
    faults = Faults(seed=3, drop_callback=0.1, double_callback=1)

    assert 60 < sum(faults.strikes("drop_callback", n) for n in range(1000)) < 140
    assert all(faults.strikes("double_callback", n) for n in range(1000))
    assert not any(faults.strikes("forge_callback", n) for n in range(1000))


async def test_a_task_with_a_lost_answer_is_accepted_and_charged(scene: Scene) -> None:
    await scene.faults(lose_answer_after=1)
    with pytest.raises(httpx.TransportError):
        await scene.called()
    ledger = await scene.ledger()
    await scene.after(2)

    assert (ledger["accepted"], ledger["charged"]) == (1, 4)
    assert ledger["tasks"][0]["answer_lost"]
    assert scene.receiver.got[0].json["status"] == "Ready"


async def test_an_answer_lost_before_acceptance_costs_nothing(scene: Scene) -> None:
    await scene.faults(lose_answer_before=1)
    with pytest.raises(httpx.TransportError):
        await scene.submit()
    ledger = await scene.ledger()

    assert (ledger["accepted"], ledger["charged"]) == (0, 0)
    assert ledger["refused"][0] | {"at": ""} == {"at": "", "status": None, "why": "lose_answer_before"}


async def test_a_failed_or_limited_submit_request_is_not_accepted(scene: Scene) -> None:
    await scene.faults(submit_5xx=1)
    outages = {(await scene.submit()).status_code for _ in range(20)}
    await scene.faults(submit_429=1)
    limited = (await scene.submit()).status_code

    assert outages == {500, 502, 503}
    assert limited == 429
    assert (await scene.ledger())["accepted"] == 0


async def test_polling_works_again_after_server_errors(scene: Scene) -> None:
    task_id = (await scene.submit()).json()["id"]
    await scene.faults(status_5xx=1)
    failed = (await scene.poll(task_id)).status_code
    await scene.faults()

    assert failed >= 500
    assert (await scene.poll(task_id)).status_code == 200


async def test_a_dropped_callback_is_never_sent_although_the_task_is_ready(scene: Scene) -> None:
    await scene.faults(drop_callback=1)
    task_id = (await scene.called()).json()["id"]
    await scene.after(3600 - 1)

    assert scene.receiver.got == []
    assert (await scene.ledger())["tasks"][0]["callbacks_withheld"]
    assert (await scene.poll(task_id)).json()["status"] == "Ready"


async def test_a_doubled_callback_is_sent_twice_with_the_same_bytes(scene: Scene) -> None:
    await scene.faults(double_callback=1)
    await scene.called()
    await scene.after(2)
    first, second = scene.receiver.got

    assert first.body == second.body
    assert sorted(await scene.kinds()) == ["double", "true"]


async def test_a_delayed_callback_is_sent_after_its_delay(scene: Scene) -> None:
    await scene.faults(delay_callback=1, delay_s=90)
    await scene.called()
    await scene.after(91)
    in_between = len(scene.receiver.got)
    await scene.after(1)

    assert (in_between, len(scene.receiver.got)) == (0, 1)


async def test_a_reordered_callback_is_overtaken_and_followed_by_an_interim_one(scene: Scene) -> None:
    await scene.faults(reorder_callbacks=1)
    first = (await scene.called()).json()["id"]
    await scene.faults()
    scene.clock.advance(0.5)
    second = (await scene.called()).json()["id"]
    await scene.after(10)

    ids = [got.json.get("id") or got.json["task_id"] for got in scene.receiver.got]
    assert ids == [second, first, first]
    assert scene.receiver.got[-1].json["status"] == "processing"


@pytest.mark.parametrize("status", [301, 403, 404, 405, 521, 530])
async def test_a_gateway_may_answer_in_place_of_the_provider(scene: Scene, status: int) -> None:
    task_id = (await scene.called()).json()["id"]
    await scene.faults(submit_gateway=1, status_gateway=1, gateway_status=status)
    submitted = await scene.called()
    polled = await scene.client.get("/v1/get_result", params={"id": task_id}, headers={"x-key": "any"})
    ledger = (await scene.client.get("/twin/ledger")).json()

    assert [answer.status_code for answer in (submitted, polled)] == [status, status]
    assert all("<html>" in answer.text for answer in (submitted, polled))
    assert (ledger["accepted"], ledger["refused"][0]["status"]) == (1, status)


async def test_a_revoked_key_is_refused_until_it_is_valid_again(scene: Scene) -> None:
    await scene.rules(keys_revoked=True)
    revoked = await scene.called()
    await scene.rules(keys_revoked=False)

    assert (revoked.status_code, revoked.json()) == (403, {"detail": "Not authenticated - Invalid Authentication"})
    assert (await scene.called()).status_code == 200


async def test_an_early_callback_is_sent_before_the_submit_answer(scene: Scene) -> None:
    await scene.faults(early_callback=1)
    answer = await scene.called()

    # The clock did not advance and `tick` was not called, so it was sent during the submit request.
    assert [got.json["id"] for got in scene.receiver.got] == [answer.json()["id"]]
    assert await scene.kinds() == ["early"]


@pytest.mark.parametrize("profile", ["a", "b"])
async def test_a_forged_callback_accompanies_the_genuine_one_without_a_valid_proof(scene: Scene, profile: str) -> None:
    await scene.rules(profile=profile)
    await scene.faults(forge_callback=1)
    await scene.called()
    await scene.after(2)
    proven = [
        got.headers.get("x-bfl-signature") == bfl_signature("s3cret", got.body)
        or got.headers.get("x-webhook-secret") == "s3cret"
        for got in scene.receiver.got
    ]
    samples = {got.json["result"]["sample"] for got in scene.receiver.got}

    assert sorted(proven) == [False, True]
    assert len(samples) == 2


async def test_a_refused_forged_callback_is_not_retried(scene: Scene) -> None:
    await scene.faults(forge_callback=1, drop_callback=1)
    scene.receiver.answers = [401]
    await scene.called()
    await scene.after(2)
    await scene.after(60)

    assert await scene.kinds() == ["forged"]


async def test_a_callback_can_be_unsigned_or_contain_the_plain_secret(scene: Scene) -> None:
    for fault in ("unsigned_callback", "plain_secret_callback"):
        await scene.faults(**{fault: 1})
        await scene.called()
    await scene.after(2)
    unsigned, plain = (got.headers for got in scene.receiver.got)

    assert not {"x-bfl-signature", "x-webhook-secret"} & unsigned.keys()
    assert plain["x-webhook-secret"] == "s3cret"
    assert await scene.kinds() == ["unsigned", "plain_secret"]


async def test_a_refused_link_works_on_the_second_download(scene: Scene) -> None:
    await scene.faults(refused_link=1)
    link = await scene.sample()

    assert [(await scene.client.get(link)).status_code for _ in range(2)] == [403, 200]


async def test_an_expired_link_is_valid_for_a_few_seconds(scene: Scene) -> None:
    await scene.faults(expired_link=1, near_expiry_s=5)
    link = await scene.sample()
    first = await scene.client.get(link)
    scene.clock.advance(5)

    assert (first.status_code, (await scene.client.get(link)).status_code) == (200, 403)


async def test_a_file_of_a_test_takes_the_place_of_every_image(scene: Scene) -> None:
    sample = await scene.sample()
    await scene.client.put("/twin/image", content=b"odd")
    odd = (await scene.client.get(sample)).content
    noted = (await scene.ledger())["tasks"][0]["sha256"]
    await scene.client.delete("/twin/image")

    assert odd == b"odd"
    assert noted == sha256(b"odd").hexdigest()
    assert (await scene.client.get(sample)).content.startswith(b"\x89PNG")


async def test_rules_redirect_downloads_and_polls_and_move_links_to_another_host(scene: Scene) -> None:
    await scene.rules(delivery_redirects=1, status_redirects=1, redirect_origin="https://eu.test")
    sample = await scene.sample_after_redirect()
    first = await scene.client.get(sample)
    await scene.rules(redirect_origin=None, delivery_origin="https://blobs.test")
    moved = await scene.sample_after_redirect()

    assert first.headers["location"].startswith("https://eu.test/delivery/")
    assert (await scene.client.get(sample, follow_redirects=True)).content.startswith(b"\x89PNG")
    assert moved.startswith("https://blobs.test/delivery/")


async def test_only_the_first_download_of_an_image_is_truncated(scene: Scene) -> None:
    await scene.faults(truncated_body=1)
    link = await scene.sample()
    with pytest.raises(httpx.TransportError):
        await scene.client.get(link)

    assert (await scene.client.get(link)).status_code == 200


async def test_a_slow_image_arrives_complete(scene: Scene) -> None:
    await scene.faults(slow_body=1, slow_s=0)
    link = await scene.sample()
    slow, quick = await scene.client.get(link), await scene.client.get(link)

    assert slow.content == quick.content
