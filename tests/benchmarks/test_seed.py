"""Seeded tasks are as the provider's would be, and their callbacks are what ends them; on both databases."""

from collections.abc import Sequence

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import attempts, evidence, tasks
from app.db.tables.evidence import NewEvidence
from app.jobs import Step
from app.provider.messages import read_status
from app.rules.task import Effect, Outcome, Status, Witness
from app.security.keyring import KeyRing
from app.security.verify import SigningProfile, Verdict, verify
from app.settle import settle
from app.transitions.changes import Evidence
from benchmarks.hmac_only import proven
from benchmarks.seed import Callback, imagine, seed
from benchmarks.stored import unstored
from tests.rows import START, drop_jobs, jobs_left

LOOK_AFTER = START - START
KEYS = KeyRing(("a-ring-key-for-benchmarks-0123456789",))


def headers_and_body(request: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    return [(name, value) for name, value in lines], body


def verdict_on(request: bytes, secret: str) -> Verdict:
    headers, body = headers_and_body(request)
    return verify(body, headers, secret, SigningProfile())


def evidence_of(each: Callback) -> Evidence:
    return Evidence(
        submission_id=each.submission_id,
        witness=Witness.CALLBACK,
        verdict=Verdict.SIGNED,
        proven=True,
        report=read_status(each.body),
        body=each.body,
        received_at=START,
    )


async def settled(database: Database, callbacks: Sequence[Callback]) -> list[Effect | None]:
    group = [evidence_of(each) for each in callbacks]
    return await database.write(lambda connection: settle(connection, group, look_after=LOOK_AFTER))


def test_a_callback_proves_itself_at_its_own_address() -> None:
    (each,) = imagine(KEYS, 1)
    _, _, submission_id, token = each.path.split("/")
    proof = KEYS.prove_token(submission_id, token)
    assert proof is not None
    assert verdict_on(each.signed(), proof.secret) is Verdict.SIGNED


def test_a_forged_one_has_the_right_address_and_a_wrong_signature() -> None:
    (each,) = imagine(KEYS, 1)
    assert each.forged().startswith(f"POST {each.path} HTTP/1.1".encode())
    assert verdict_on(each.forged(), each.secret) is Verdict.FORGED


def test_a_misaddressed_one_has_a_token_that_proves_nothing() -> None:
    (each,) = imagine(KEYS, 1)
    _, _, submission_id, token = each.misaddressed().split(b" ")[1].decode().split("/")
    assert KEYS.prove_token(submission_id, token) is None


def test_the_reference_servers_can_check_theirs() -> None:
    (each,) = imagine(KEYS, 1)
    headers, body = headers_and_body(each.for_reference())
    assert proven(dict(headers)[b"x-bfl-signature"].decode(), body)
    assert not proven(None, body)


async def test_a_seeded_task_is_with_the_provider_and_is_looked_after(database: Database) -> None:
    (each,) = await seed(database, KEYS, 1)

    def look(connection: Connection) -> None:
        task, attempt = tasks.get(connection, each.task_id), attempts.get(connection, each.submission_id)
        assert task is not None
        assert attempt is not None
        assert (task.status, task.submission_id) == (Status.SUBMITTED, each.submission_id)
        assert (attempt.outcome, attempt.callback_requested) == (Outcome.ACCEPTED, True)
        assert attempt.provider_id == read_status(each.body).provider_id
        assert [job.step for job in jobs_left(connection)] == [Step.RECONCILE]

    await database.read(look)


async def test_a_seeded_callback_ends_its_task(database: Database) -> None:
    callbacks = await seed(database, KEYS, 3)
    assert await settled(database, callbacks) == [Effect.MOVED] * 3
    assert await unstored(database, callbacks) == 0


async def test_what_was_acknowledged_and_never_came_is_found_missing(database: Database) -> None:
    callbacks = await seed(database, KEYS, 3)
    await settled(database, callbacks[:2])
    assert await unstored(database, callbacks) == 1


async def test_a_doubled_callback_counts_once(database: Database) -> None:
    callbacks = await seed(database, KEYS, 2)
    await settled(database, [*callbacks, callbacks[0]])
    await settled(database, callbacks[:1])
    assert await unstored(database, [*callbacks, *callbacks]) == 0


async def test_a_task_that_moved_without_its_job_is_missing(database: Database) -> None:
    callbacks = await seed(database, KEYS, 1)
    await settled(database, callbacks)
    await database.write(drop_jobs)
    assert await unstored(database, callbacks) == 1


async def test_evidence_that_was_kept_without_moving_its_task_is_missing(database: Database) -> None:
    (each,) = await seed(database, KEYS, 1)
    given = evidence_of(each)
    row = NewEvidence(
        id="ev_1",
        submission_id=each.submission_id,
        witness=Witness.CALLBACK,
        verdict=Verdict.SIGNED,
        digest="0" * 64,
        said=given.report.said,
        effect=Effect.CONFIRMED,
        detail=None,
        http_status=None,
        headers="{}",
        copies=1,
        received_at=START,
        last_received_at=START,
        body=each.body,
    )
    await database.write(lambda connection: evidence.keep(connection, [row]))
    assert await unstored(database, [each]) == 1
