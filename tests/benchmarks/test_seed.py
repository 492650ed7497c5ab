"""Seeded tasks and their callbacks equal real ones, on both databases."""

from collections.abc import Sequence
from dataclasses import replace

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import attempts, evidence, tasks
from app.db.tables.evidence import Evidence, NewEvidence
from app.jobs import Step
from app.provider.messages import read_status
from app.rules.task import Effect, Failure, Outcome, Status, Witness
from app.security.keyring import KeyRing
from app.security.verify import SigningProfile, Verdict, verify
from app.settle import settle
from benchmarks.hmac_only import proven
from benchmarks.seed import Callback, imagine, seed
from benchmarks.stored import unstored
from tests.rows import START, drop_jobs, stored_jobs, write_now

POLL_AFTER = START - START
KEYS = KeyRing(("a-ring-key-for-benchmarks-0123456789",))


def headers_and_body(request: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    return [(name, value) for name, value in lines], body


def verdict_on(request: bytes, secret: str) -> Verdict:
    headers, body = headers_and_body(request)
    return verify(body, headers, secret, SigningProfile())


def evidence_of(callback: Callback) -> Evidence:
    return Evidence(
        attempt_id=callback.attempt_id,
        witness=Witness.CALLBACK,
        verdict=Verdict.SIGNED,
        proven=True,
        report=read_status(callback.body),
        body=callback.body,
        received_at=START,
    )


async def settle_callbacks(database: Database, callbacks: Sequence[Callback]) -> list[Effect | None]:
    group = [evidence_of(callback) for callback in callbacks]
    return await database.write(lambda connection: settle(connection, group, poll_after=POLL_AFTER))


def test_a_signed_callback_is_verified_at_its_address() -> None:
    (callback,) = imagine(KEYS, 1)
    _, _, attempt_id, token = callback.path.split("/")
    proof = KEYS.prove_token(attempt_id, token)
    assert proof is not None
    assert verdict_on(callback.signed(), proof.secret) is Verdict.SIGNED


def test_a_forged_callback_has_a_valid_address_and_a_wrong_signature() -> None:
    (callback,) = imagine(KEYS, 1)
    assert callback.forged().startswith(f"POST {callback.path} HTTP/1.1".encode())
    assert verdict_on(callback.forged(), callback.secret) is Verdict.FORGED


def test_a_misaddressed_callback_has_an_invalid_token() -> None:
    (callback,) = imagine(KEYS, 1)
    _, _, attempt_id, token = callback.misaddressed().split(b" ")[1].decode().split("/")
    assert KEYS.prove_token(attempt_id, token) is None


def test_the_reference_servers_can_verify_their_callbacks() -> None:
    (callback,) = imagine(KEYS, 1)
    headers, body = headers_and_body(callback.for_reference())
    assert proven(dict(headers)[b"x-bfl-signature"].decode(), body)
    assert not proven(None, body)


async def test_a_seeded_task_is_submitted_and_has_its_reconcile_job(database: Database) -> None:
    (callback,) = await seed(database, KEYS, 1)

    def look(connection: Connection) -> None:
        task, attempt = tasks.get(connection, callback.task_id), attempts.get(connection, callback.attempt_id)
        assert task is not None
        assert attempt is not None
        assert (task.status, task.attempt_id) == (Status.SUBMITTED, callback.attempt_id)
        assert (attempt.outcome, attempt.callback_requested) == (Outcome.ACCEPTED, True)
        assert attempt.provider_id == read_status(callback.body).provider_id
        assert [job.step for job in stored_jobs(connection)] == [Step.RECONCILE]

    await database.read(look)


async def test_a_seeded_callback_moves_its_task(database: Database) -> None:
    callbacks = await seed(database, KEYS, 3)
    assert await settle_callbacks(database, callbacks) == [Effect.MOVED] * 3
    assert await unstored(database, callbacks) == 0


async def test_a_seeded_callback_of_a_moderated_result_fails_its_task(database: Database) -> None:
    callbacks = await seed(database, KEYS, 3, moderated=True)
    assert await unstored(database, callbacks) == 3
    assert await settle_callbacks(database, callbacks) == [Effect.MOVED] * 3
    assert await unstored(database, callbacks) == 0

    def look(connection: Connection) -> None:
        task = tasks.get(connection, callbacks[0].task_id)
        assert task is not None
        assert (task.status, task.failure) == (Status.FAILED, Failure.CONTENT_MODERATED)

    await database.read(look)


async def test_a_failed_task_whose_callback_reported_an_image_is_missing(database: Database) -> None:
    (callback,) = await seed(database, KEYS, 1, moderated=True)
    await settle_callbacks(database, [callback])
    assert await unstored(database, [replace(callback, is_moderated=False)]) == 1


async def test_an_acknowledged_callback_without_evidence_is_missing(database: Database) -> None:
    callbacks = await seed(database, KEYS, 3)
    await settle_callbacks(database, callbacks[:2])
    assert await unstored(database, callbacks) == 1


async def test_a_duplicate_callback_counts_once(database: Database) -> None:
    callbacks = await seed(database, KEYS, 2)
    await settle_callbacks(database, [*callbacks, callbacks[0]])
    await settle_callbacks(database, callbacks[:1])
    assert await unstored(database, [*callbacks, *callbacks]) == 0


async def test_a_task_that_moved_without_its_job_is_missing(database: Database) -> None:
    callbacks = await seed(database, KEYS, 1)
    await settle_callbacks(database, callbacks)
    await database.write(drop_jobs)
    assert await unstored(database, callbacks) == 1


async def test_evidence_that_did_not_move_its_task_is_missing(database: Database) -> None:
    (callback,) = await seed(database, KEYS, 1)
    sent = evidence_of(callback)
    row = NewEvidence(
        id="ev_1",
        attempt_id=callback.attempt_id,
        witness=Witness.CALLBACK,
        verdict=Verdict.SIGNED,
        digest="0" * 64,
        said=sent.report.said,
        effect=Effect.CONFIRMED,
        detail=None,
        http_status=None,
        headers="{}",
        copies=1,
        received_at=START,
        last_received_at=START,
        body=callback.body,
    )
    await database.write(write_now, evidence.upsert, [row])
    assert await unstored(database, [callback]) == 1
