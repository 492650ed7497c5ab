"""The effect of callbacks with any verdict at any time. The provider has the task; the tests send the callbacks."""

import json
import sqlite3
from asyncio import wait
from collections.abc import Awaitable, Callable
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest

from app import jobs
from app.callback import MAX_BYTES, Reply, receive, reply_to, verify_and_store
from app.db.tables import evidence
from app.errors import Unavailable
from app.jobs import Step
from app.main import create_app
from app.security.keyring import KeyRing
from tests.calling import done, small, submitted
from tests.world import RING_KEY, World


@pytest.mark.parametrize("form", ["documented", "field"])
@pytest.mark.parametrize("as_text", [False, True])
async def test_a_signed_callback_in_either_form_finishes_the_task(world: World, form: str, as_text: bool) -> None:
    caller = await submitted(world)
    await done(world)
    body = caller.ready(form)
    if as_text:  # seen: the result as a JSON string
        body["result"] = json.dumps(body["result"])
    answer = await caller.call(body)
    await world.work()

    assert (answer.status_code, answer.json()) == (200, {"status": "success"})
    assert (await world.task(caller.task_id))["status"] == "stored"
    assert await caller.verdicts() == [("signed", "moved")]


async def test_a_callback_is_answered_only_when_its_effect_is_durable(each_world: World) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    await caller.call(caller.ready())

    assert (await each_world.task(caller.task_id))["status"] == "ready"


async def test_a_callback_that_ends_a_task_makes_its_poll_needless(each_world: World) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    before = await each_world.use.db.read(jobs.scheduled, Step.RECONCILE, [caller.task_id])
    await caller.call(caller.ready())

    assert before == {caller.task_id}
    assert await each_world.use.db.read(jobs.scheduled, Step.RECONCILE, [caller.task_id]) == set()


async def test_a_callback_that_cannot_be_stored_is_not_accepted(
    world: World, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = await submitted(world)
    await done(world)
    raw = json.dumps(caller.ready()).encode()
    monkeypatch.setattr("app.db.engine.sqlite._BUSY_S", 0)
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as backup:
        backup.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await receive(
                world.use, caller.attempt_id, caller.proof.token, raw_headers(caller.signature(raw)), one(raw)
            )
        refused = await caller.call(raw)
        backup.rollback()

    assert refused.status_code == 503
    assert (await caller.call(raw)).status_code == 200
    assert (await world.task(caller.task_id))["status"] == "ready"


def one(raw: bytes) -> Callable[[int], Awaitable[bytes | None]]:
    async def read(most: int) -> bytes | None:
        return raw if len(raw) <= most else None

    return read


def raw_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def test_the_plain_secret_proves_a_callback_if_the_setting_accepts_it(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    await caller.call(caller.ready(), caller.plain_secret)

    assert (await world.task(caller.task_id))["status"] == "ready"
    assert await caller.verdicts() == [("shared_secret", "moved")]


async def test_the_plain_secret_is_a_hint_if_the_setting_says_so(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    raw = json.dumps(caller.ready()).encode()
    use = replace(world.use, trust_shared_secret=False)
    reply = await receive(use, caller.attempt_id, caller.proof.token, raw_headers(caller.plain_secret), one(raw))
    hinted = await world.task(caller.task_id)
    await world.work()

    assert reply is Reply.ACCEPTED
    assert hinted["status"] == "submitted"
    assert await caller.verdicts() == [("shared_secret", "hinted")]
    assert (await world.task(caller.task_id))["status"] == "stored"


async def test_an_unsigned_callback_is_stored_and_the_provider_is_polled_instead(each_world: World) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    answer = await caller.call(caller.ready(), {})
    hinted = await each_world.task(caller.task_id)
    await each_world.work()

    assert answer.status_code == 200
    assert hinted["status"] == "submitted"
    assert await caller.verdicts() == [("unproven", "hinted")]
    assert (await each_world.task(caller.task_id))["status"] == "stored"


async def test_a_false_report_without_a_signature_changes_nothing(world: World) -> None:
    caller = await submitted(world)
    await caller.call({"id": "p1", "status": "Error", "error": "internal_error"}, {})
    await world.work()

    assert (await world.task(caller.task_id))["status"] == "submitted"


@pytest.mark.parametrize("header", ["x-bfl-signature", "x-webhook-secret"])
async def test_a_forged_callback_gets_a_401_in_the_providers_form_and_changes_nothing(
    each_world: World, header: str
) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    answer = await caller.call(caller.ready(), {header: "sha256=" + "0" * 64})
    await each_world.work()

    assert answer.status_code == 401
    assert answer.json() == {"error": {"message": "Invalid signature", "type": "401"}}
    assert (await each_world.task(caller.task_id))["status"] == "submitted"
    assert await caller.verdicts() == [("forged", "rejected")]


async def test_a_wrong_signature_is_refused_even_with_the_right_plain_secret(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    answer = await caller.call(caller.ready(), {"x-bfl-signature": "sha256=00", **caller.plain_secret})

    assert answer.status_code == 401
    assert (await world.task(caller.task_id))["status"] == "submitted"


async def test_a_forged_copy_that_arrives_first_does_not_hide_the_signed_original(each_world: World) -> None:
    caller = await submitted(each_world)
    await done(each_world)
    await caller.call(caller.ready(), {"x-bfl-signature": "sha256=00"})
    await caller.call(caller.ready())

    assert await caller.verdicts() == [("forged", "rejected"), ("signed", "moved")]


@pytest.mark.parametrize(("proof", "verdict"), [({"x-bfl-signature": "0"}, "forged"), ({}, "unproven")])
async def test_at_most_ten_unproven_callbacks_are_stored_and_a_signed_one_still_counts(
    world: World, proof: dict[str, str], verdict: str
) -> None:
    caller = await submitted(world)
    await done(world)
    answers = {(await caller.call({"number": number}, proof)).status_code for number in range(25)}
    await caller.call(caller.ready())

    assert answers == {401 if verdict == "forged" else 200}
    assert sum(kept == verdict for kept, _ in await caller.verdicts()) == 10
    assert (await world.task(caller.task_id))["status"] == "ready"


async def test_an_unsigned_callback_after_the_tenth_still_triggers_a_poll(world: World) -> None:
    caller = await submitted(world)
    for number in range(10):
        await caller.call({"number": number}, {})
    await world.work()
    await done(world)
    await caller.call({"number": 11}, {})
    await world.work()

    assert (await world.task(caller.task_id))["status"] == "stored"


@pytest.mark.parametrize("case", ["token", "submission", "empty"])
async def test_every_unknown_address_gets_the_same_answer_and_stores_nothing(world: World, case: str) -> None:
    caller = await submitted(world)
    other = replace(
        caller, attempt_id="sub_none", proof=world.use.keys.callback_proof("sub_none", world.use.keys.newest)
    )
    answers = {
        "token": await caller.call(caller.ready(), token="x" * 43),
        "submission": await other.call(caller.ready()),
        "empty": await caller.call(caller.ready(), token="%20"),
    }

    assert answers[case].status_code == 404
    assert answers[case].json() == answers["token"].json()
    assert await caller.verdicts() == []


async def test_many_unsigned_callbacks_to_a_deleted_attempt_are_all_unknown(each_world: World) -> None:
    caller = await submitted(each_world)
    proof = each_world.use.keys.callback_proof("sub_none", each_world.use.keys.newest)
    gone = [verify_and_store(each_world.use, "sub_none", proof, [], b"%d" % number) for number in range(16)]
    there = [
        verify_and_store(each_world.use, caller.attempt_id, caller.proof, [], b"%d" % number) for number in range(16)
    ]
    await wait([each.stored for each in (*gone, *there) if each.stored is not None])

    assert {reply_to(each) for each in gone} == {Reply.UNKNOWN}
    assert {reply_to(each) for each in there} == {Reply.ACCEPTED}


async def test_a_callback_that_is_too_large_is_refused(world: World) -> None:
    caller = await submitted(world)
    reply = await receive(world.use, caller.attempt_id, caller.proof.token, [], one(bytes(MAX_BYTES + 1)))

    assert reply is Reply.TOO_LARGE
    assert (await caller.call(bytes(MAX_BYTES + 1))).status_code == 413
    assert await caller.verdicts() == []


async def test_a_callback_of_an_older_signing_key_is_still_proven(world: World) -> None:
    caller = await submitted(world)
    await done(world)
    raw = json.dumps(caller.ready()).encode()
    rotated = replace(world.use, keys=KeyRing(("another-ring-key-for-tests-0123456789", RING_KEY)))
    gone = replace(world.use, keys=KeyRing(("another-ring-key-for-tests-0123456789",)))
    replies = [
        await receive(use, caller.attempt_id, caller.proof.token, raw_headers(caller.signature(raw)), one(raw))
        for use in (gone, rotated)
    ]

    assert replies == [Reply.UNKNOWN, Reply.ACCEPTED]


async def test_a_key_rotation_loses_no_task_in_flight(each_world: World) -> None:
    small(each_world)
    at_the_provider = await each_world.post()
    await each_world.work()
    queued = await each_world.post()
    each_world.use = replace(each_world.use, keys=KeyRing(("another-ring-key-for-tests-0123456789", RING_KEY)))
    restarted = create_app(nullcontext(each_world.use), with_worker=False)
    async with restarted.router.lifespan_context(restarted):
        each_world.network.add("gateway", restarted)
        await each_world.go_on(5)

    for task_id in (at_the_provider, queued):
        entries = await each_world.timeline(task_id, "evidence")
        assert ("callback", "shared_secret", "moved") in [(e["witness"], e["verdict"], e["effect"]) for e in entries]
        assert (await each_world.task(task_id))["status"] == "stored"
    assert each_world.ledger()["accepted"] == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
async def test_a_secret_that_is_echoed_in_json_escapes_is_never_shown(each_world: World, encoding: str) -> None:
    caller = await submitted(each_world)
    token, secret = ("".join(f"\\u{ord(letter):04x}" for letter in text) for text in caller.proof)
    await caller.call(f'{{"status": "Error", "message": "bad {secret} at {token}"}}'.encode(encoding))
    timeline = await each_world.api.get(f"/v1/tasks/{caller.task_id}/timeline")

    assert (await each_world.task(caller.task_id))["failure"]["detail"] == "bad [secret] at [token]"
    assert caller.proof.secret not in timeline.text
    assert caller.proof.token not in timeline.text


async def test_stored_headers_are_bounded_and_contain_no_credentials(world: World) -> None:
    caller = await submitted(world)
    headers = {f"x-{number}": "v" * 1000 for number in range(100)} | {"authorization": "Bearer secret-thing"}
    await caller.call(b"{}", headers)
    query = evidence.evidence.select().where(evidence.evidence.c.witness == "callback")
    (row,) = await world.use.db.read(lambda connection: connection.execute(query).all())

    assert len(row.headers) <= 60
    assert max(map(len, row.headers.values())) <= 300
    assert "secret-thing" not in str(row.headers)
