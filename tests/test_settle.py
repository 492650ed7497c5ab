"""Evidence in batches: each piece is settled, whatever else is in the batch."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import attempts, evidence, provider_accounts, slots, task_updates, tasks
from app.db.tables.attempts import Attempt
from app.db.tables.evidence import Evidence
from app.db.tables.tasks import Task
from app.rules.task import Effect, Failure, MoneySpent, Outcome, Report, Said, Status, Witness
from app.security.verify import Verdict
from app.settle import enqueue_polls, settle
from tests.rows import (
    START,
    claim,
    newest_tasks,
    plan_attempt,
    plan_task,
    put_account,
    put_sent_task,
    stored_jobs,
    take_slot,
)

POLL_AFTER = timedelta(seconds=20)
EXPIRES = START + timedelta(minutes=10)
READY = Report(Said.READY, "p1", sample_url="https://bfl.ai/1", sample_expires_at=EXPIRES, seed=7)
TAKEN = Report(Said.PENDING, "p1", polling_url="https://bfl.ai/poll", cost=4.0)
FAILED = Report(Said.FAILED, "p1", failure=Failure.CONTENT_MODERATED, detail="NSFW")


def evidence_of(
    report: Report,
    name: str = "1",
    *,
    witness: Witness = Witness.CALLBACK,
    verdict: Verdict = Verdict.SIGNED,
    seconds: float = 1,
    **changes: Any,
) -> Evidence:
    """Evidence about the attempt `sub_NAME`. Only signed callbacks and fetched answers are proven."""
    given = {"body": repr((report, name)).encode(), "proven": verdict in {Verdict.SIGNED, Verdict.FETCHED}}
    return Evidence(
        attempt_id=f"sub_{name}",
        witness=witness,
        verdict=verdict,
        report=report,
        received_at=START + timedelta(seconds=seconds),
        **{**given, **changes},
    )


def answer(report: Report, name: str = "1", **changes: Any) -> Evidence:
    """The provider's answer to the submission."""
    return evidence_of(report, name, witness=Witness.SUBMIT, verdict=Verdict.FETCHED, **changes)


def task_of(connection: Connection, name: str = "1") -> Task:
    task = tasks.get(connection, f"task_{name}")
    assert task is not None
    return task


def attempt_of(connection: Connection, name: str = "1") -> Attempt:
    attempt = attempts.get(connection, f"sub_{name}")
    assert attempt is not None
    return attempt


def waiting(connection: Connection) -> list[tuple[str, str, datetime]]:
    """Return the pending jobs by task."""
    return sorted((each.task_id, each.step, each.run_at) for each in stored_jobs(connection))


async def settled(database: Database, group: Sequence[Evidence]) -> list[Effect | None]:
    return await database.write(lambda connection: settle(connection, group, poll_after=POLL_AFTER))


async def test_a_batch_settles_each_task_as_if_it_were_alone(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        for name in ("good", "doubled", "torn", "forged", "hinted", "failed"):
            put_sent_task(connection, name)

    await database.write(prepare)
    effects = await settled(
        database,
        [
            evidence_of(READY, "good"),
            evidence_of(READY, "doubled"),
            evidence_of(READY, "torn"),
            evidence_of(READY, "unknown"),
            evidence_of(READY, "doubled"),
            evidence_of(FAILED, "torn"),
            evidence_of(READY, "forged", verdict=Verdict.FORGED),
            evidence_of(Report(Said.UNCLEAR), "hinted", verdict=Verdict.UNPROVEN),
            evidence_of(FAILED, "failed"),
        ],
    )

    assert effects == [
        Effect.MOVED,
        Effect.MOVED,
        Effect.MOVED,
        None,
        Effect.CONFIRMED,
        Effect.CONTRADICTED,
        Effect.REJECTED,
        Effect.HINTED,
        Effect.MOVED,
    ]

    def look(connection: Connection) -> dict[str, Status]:
        return {task.id.removeprefix("task_"): task.status for task in newest_tasks(connection, 10)}

    assert await database.read(look) == {
        "good": Status.READY,
        "doubled": Status.READY,
        "torn": Status.READY,
        "forged": Status.SUBMITTING,
        "hinted": Status.SUBMITTING,
        "failed": Status.FAILED,
    }
    left = {(step, task_id) for task_id, step, _ in await database.read(waiting)}
    assert left == {
        ("collect", "task_good"),
        ("reconcile", "task_failed"),  # the provider is polled once for the reasons of a moderation
        ("collect", "task_doubled"),
        ("collect", "task_torn"),
        ("reconcile", "task_torn"),
        ("reconcile", "task_hinted"),
        ("reconcile", "task_failed"),  # for the reasons of the moderation
    }
    (doubled,) = await database.read(lambda connection: evidence.of_task(connection, "task_doubled"))
    assert (doubled.copies, doubled.effect) == (2, Effect.MOVED)


async def test_settling_the_same_batch_again_changes_only_the_count_of_copies(database: Database) -> None:
    await database.write(put_sent_task)
    group = [answer(TAKEN), evidence_of(READY)]
    await settled(database, group)
    before = await database.read(lambda connection: (task_of(connection), attempt_of(connection), waiting(connection)))
    effects = await settled(database, group)
    after = await database.read(lambda connection: (task_of(connection), attempt_of(connection), waiting(connection)))
    copies = await database.read(lambda connection: evidence.of_task(connection, "task_1"))

    assert effects == [Effect.CONFIRMED, Effect.CONFIRMED]
    assert before == after
    assert [each.copies for each in copies] == [2, 2]


async def test_an_empty_batch_changes_nothing(database: Database) -> None:
    assert await settled(database, []) == []


async def test_copies_in_one_batch_record_the_time_of_the_last(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [evidence_of(READY, seconds=1), evidence_of(READY, seconds=2)])
    (kept,) = await database.read(lambda connection: evidence.of_task(connection, "task_1"))

    assert kept.last_received_at - kept.received_at == timedelta(seconds=1)


async def test_evidence_has_the_digest_of_the_received_bytes(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [evidence_of(READY, body=b"raw \x00 bytes", http_status=200)])
    (kept,) = await database.read(lambda connection: evidence.of_task(connection, "task_1"))

    assert kept.digest == hashlib.sha256(b"raw \x00 bytes").hexdigest()
    assert kept.http_status == 200


async def test_an_acceptance_is_recorded_and_a_poll_is_scheduled(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [answer(TAKEN)])
    task, attempt, left = await database.read(
        lambda connection: (task_of(connection), attempt_of(connection), waiting(connection))
    )

    assert (task.status, task.cost, task.submitted_at) == (Status.SUBMITTED, 4.0, START + timedelta(seconds=1))
    assert (attempt.outcome, attempt.provider_id, attempt.polling_url) == (Outcome.ACCEPTED, "p1", TAKEN.polling_url)
    assert left == [("task_1", "reconcile", START + timedelta(seconds=21))]


async def test_the_first_poll_is_scheduled_as_the_caller_asks(database: Database) -> None:
    await database.write(put_sent_task)
    await database.write(lambda connection: settle(connection, [answer(TAKEN)], poll_after=timedelta(seconds=1)))

    assert await database.read(waiting) == [("task_1", "reconcile", START + timedelta(seconds=2))]


async def test_a_result_is_recorded_with_its_link_and_seed(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [evidence_of(READY)])
    task = await database.read(task_of)

    assert (task.status, task.sample_url, task.sample_expires_at) == (Status.READY, READY.sample_url, EXPIRES)
    assert task.seed == 7


def result(number: int, dies_after: float | None = None) -> Report:
    """A result with the link of this number, which expires `dies_after` minutes after the start, or has no expiry."""
    dies_at = None if dies_after is None else START + timedelta(minutes=dies_after)
    return Report(Said.READY, "p1", sample_url=f"https://bfl.ai/{number}", sample_expires_at=dies_at)


def polled(report: Report, **changes: Any) -> Evidence:
    return evidence_of(report, witness=Witness.POLL, verdict=Verdict.FETCHED, **changes)


@pytest.mark.parametrize("dies_after", [10, None])
async def test_a_repeated_callback_does_not_replace_a_fresh_link(database: Database, dies_after: float | None) -> None:
    await database.write(put_sent_task)
    first, fresh = evidence_of(result(1, dies_after)), polled(result(2, 20), seconds=540)
    again = evidence_of(result(1, dies_after), seconds=700)
    effects = [await settled(database, [each]) for each in (first, fresh, again)]
    task, left = await database.read(lambda connection: (task_of(connection), waiting(connection)))
    kept = await database.read(lambda connection: evidence.of_task(connection, "task_1"))

    assert effects == [[Effect.MOVED], [Effect.ADOPTED], [Effect.CONFIRMED]]
    assert (task.sample_url, task.sample_expires_at) == ("https://bfl.ai/2", START + timedelta(minutes=20))
    assert left == [("task_1", "collect", START + timedelta(seconds=1))]
    assert [each.copies for each in kept] == [2, 1]


async def test_a_delayed_callback_does_not_replace_a_fresh_link(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [polled(result(2, 20))])
    (effect,) = await settled(database, [evidence_of(result(1, 10), seconds=30)])

    assert effect is Effect.CONFIRMED
    assert (await database.read(task_of)).sample_url == "https://bfl.ai/2"


async def test_repeated_callbacks_in_the_batch_of_a_fresh_link_do_not_replace_it(database: Database) -> None:
    await database.write(put_sent_task)
    first, second = evidence_of(result(1)), evidence_of(result(2), seconds=2)
    effects = await settled(database, [first, second, first._replace(received_at=START + timedelta(seconds=3))])

    assert effects == [Effect.MOVED, Effect.ADOPTED, Effect.CONFIRMED]
    assert (await database.read(task_of)).sample_url == "https://bfl.ai/2"


@pytest.mark.parametrize(
    ("witness", "dies_after"), [("poll", 19), ("poll", None), ("callback", 21), ("callback", None)]
)
async def test_a_fresh_link_replaces_the_old_one(database: Database, witness: str, dies_after: float | None) -> None:
    await database.write(put_sent_task)
    await settled(database, [evidence_of(result(1, 20))])
    fresh = result(2, dies_after)
    (effect,) = await settled(database, [(polled if witness == "poll" else evidence_of)(fresh, seconds=900)])
    task = await database.read(task_of)

    assert effect is Effect.ADOPTED
    assert (task.sample_url, task.sample_expires_at) == (
        "https://bfl.ai/2",
        START + (timedelta(minutes=25) if dies_after is None else timedelta(minutes=dies_after)),
    )


async def test_a_link_without_an_expiry_lives_as_long_as_is_usual_for_its_model(database: Database) -> None:
    lives = {"flux-kontext-pro": timedelta(hours=1)}
    for name, link_lives in (("1", lives), ("2", {})):
        await database.write(put_sent_task, name)
        batch = [evidence_of(result(1), name)]
        await database.write(settle, batch, poll_after=POLL_AFTER, link_lives=link_lives)

    long, usual = [await database.read(task_of, name) for name in ("1", "2")]
    received_at = START + timedelta(seconds=1)
    assert long.sample_expires_at == received_at + timedelta(hours=1)
    assert usual.sample_expires_at == received_at + timedelta(minutes=10)


@pytest.mark.parametrize("status", [Status.STORED, Status.FAILED, Status.CANCELLED])
async def test_late_evidence_is_stored_and_only_its_cost_is_applied(database: Database, status: Status) -> None:
    await database.write(lambda connection: put_sent_task(connection, status=Status.QUEUED))
    await database.write(
        lambda connection: connection.execute(tasks.tasks.update().values(status=status, sample_url=None)).close()
    )
    effects = await settled(database, [evidence_of(READY), answer(TAKEN)])
    task, left = await database.read(lambda connection: (task_of(connection), waiting(connection)))

    assert effects == [Effect.LATE, Effect.LATE]
    assert (task.status, task.sample_url, task.cost) == (status, None, 4.0)
    assert left == []


async def test_a_refusal_after_a_proven_acceptance_changes_nothing(database: Database) -> None:
    await database.write(put_sent_task)
    refusal = Report(Said.DOWN, detail="HTTP 503")
    for group in ([evidence_of(READY)], [answer(refusal)]):
        await settled(database, group)
    await database.write(lambda connection: task_updates.move(connection, "task_1", Status.STORED, START))
    (late,) = await settled(database, [answer(refusal, body=b"again")])

    assert late is Effect.LATE
    assert (await database.read(attempt_of)).outcome is Outcome.ACCEPTED


async def test_a_late_callback_with_another_id_does_not_rename_the_attempt(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [answer(TAKEN), evidence_of(FAILED)])
    await settled(database, [evidence_of(Report(Said.READY, "p2", sample_url="https://bfl.ai/2"))])

    assert (await database.read(attempt_of)).provider_id == "p1"


async def test_a_late_callback_does_not_change_the_attempt(database: Database) -> None:
    await database.write(put_sent_task)
    await database.write(lambda connection: connection.execute(tasks.tasks.update().values(status="failed")).close())
    before = await database.read(lambda connection: (task_of(connection), attempt_of(connection)))
    foreign = Report(Said.READY, "p2", cost=99.0, sample_url="https://bfl.ai/2")
    effects = await settled(database, [evidence_of(foreign), evidence_of(FAILED)])

    assert effects == [Effect.LATE, Effect.LATE]
    assert await database.read(lambda connection: (task_of(connection), attempt_of(connection))) == before


async def settled_in_turn(database: Database, *pieces: Evidence) -> list[Effect | None]:
    return [effect for piece in pieces for effect in await settled(database, [piece])]


async def costs(database: Database) -> tuple[float | None, float | None]:
    """The cost of the task and of its attempt."""
    return await database.read(lambda connection: (task_of(connection).cost, attempt_of(connection).cost))


ESTIMATED = answer(TAKEN)
NOW_FREE = evidence_of(READY._replace(cost=0.0), body=b"free", seconds=2)
STILL_FOUR = evidence_of(READY._replace(cost=4.0), body=b"four", seconds=1)


@pytest.mark.parametrize(
    "pieces",
    [
        [ESTIMATED, NOW_FREE],
        [NOW_FREE, ESTIMATED],
        [ESTIMATED, polled(READY._replace(cost=0.0))],
        [ESTIMATED, STILL_FOUR, NOW_FREE],
        [ESTIMATED, STILL_FOUR, NOW_FREE, STILL_FOUR],
        [ESTIMATED, STILL_FOUR, polled(READY._replace(cost=0.0)), STILL_FOUR, ESTIMATED],
        [ESTIMATED, NOW_FREE, evidence_of(Report(Said.PENDING, "p1", cost=4.0), seconds=3)],
        [ESTIMATED, evidence_of(FAILED._replace(cost=0.0))],
    ],
    ids=["callback", "early", "poll", "two", "copy", "copies after a poll", "interim overtaken", "moderated"],
)
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
async def test_the_last_stated_cost_counts_also_if_it_is_nothing(
    database: Database, pieces: list[Evidence], *, together: bool
) -> None:
    await database.write(put_sent_task)
    if together:
        await settled(database, pieces)
    else:
        await settled_in_turn(database, *pieces)

    assert await costs(database) == (0.0, 0.0)
    await settled(database, pieces[:1])
    assert await costs(database) == (0.0, 0.0)


async def test_a_late_callback_settles_the_cost_if_it_names_the_attempt(database: Database) -> None:
    await database.write(put_sent_task)
    await settled(database, [ESTIMATED, polled(READY)])
    await database.write(lambda connection: task_updates.move(connection, "task_1", Status.STORED, START))
    other = NOW_FREE.report._replace(provider_id="p2")
    effects = await settled_in_turn(
        database,
        evidence_of(other, body=b"another"),
        evidence_of(READY._replace(cost=9.0), verdict=Verdict.UNPROVEN),
        evidence_of(READY._replace(cost=3.0)),
    )

    assert effects == [Effect.LATE] * 3
    assert await costs(database) == (3.0, 3.0)


async def test_what_is_not_proven_or_contradicts_settles_no_cost(database: Database) -> None:
    await database.write(put_sent_task)
    await settled_in_turn(
        database,
        ESTIMATED,
        evidence_of(READY._replace(cost=0.0), verdict=Verdict.UNPROVEN),
        evidence_of(READY._replace(cost=0.0), verdict=Verdict.FORGED),
        evidence_of(READY._replace(cost=0.0, provider_id="p2")),
    )

    assert await costs(database) == (4.0, 4.0)


async def test_each_attempt_counts_once_with_its_last_cost(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        plan_task(connection)
        attempts.mark_sent(connection, "sub_1", START, callback_requested=True)
        plan_attempt(connection, "sub_2", "task_1", number=2)
        task_updates.move(connection, "task_1", Status.SUBMITTING, START, attempt_id="sub_2")
        attempts.mark_sent(connection, "sub_2", START, callback_requested=True)

    await database.write(prepare)
    dear, cheap = READY._replace(cost=6.0), READY._replace(cost=1.0)
    pieces = [
        answer(TAKEN, "1"),
        answer(TAKEN, "2"),
        evidence_of(dear, "1"),
        evidence_of(cheap, "2"),
        evidence_of(cheap, "1", seconds=2),
    ]
    await settled(database, pieces)
    await settled_in_turn(database, *pieces)

    assert (await database.read(task_of)).cost == 2.0


async def test_a_late_answer_adds_id_and_cost_but_no_outcome(database: Database) -> None:
    await database.write(put_sent_task)
    refusal = Report(Said.FAILED, failure=Failure.CONTENT_MODERATED, detail="NSFW")
    late = answer(TAKEN._replace(detail="no answer: ReadTimeout"))
    effects = [await settled(database, [each]) for each in (evidence_of(refusal), late)]
    attempt = await database.read(attempt_of)

    assert effects == [[Effect.MOVED], [Effect.LATE]]
    assert (attempt.detail, attempt.provider_id, attempt.cost) == ("NSFW", "p1", 4.0)


async def test_the_id_of_the_submit_answer_replaces_that_of_a_callback(database: Database) -> None:
    await database.write(put_sent_task)
    effects = await settled(database, [evidence_of(Report(Said.PENDING, "supplier")), answer(TAKEN)])

    assert effects == [Effect.MOVED, Effect.ADOPTED]
    assert (await database.read(attempt_of)).provider_id == "p1"


@pytest.mark.parametrize("status", [Status.SUBMITTING, Status.STORED])
async def test_unproven_and_forged_evidence_changes_no_row(database: Database, status: Status) -> None:
    await database.write(put_sent_task)
    await database.write(lambda connection: connection.execute(tasks.tasks.update().values(status=status)).close())
    before = await database.read(attempt_of)
    await settled(database, [evidence_of(READY, verdict=verdict) for verdict in (Verdict.UNPROVEN, Verdict.FORGED)])
    task, after = await database.read(lambda connection: (task_of(connection), attempt_of(connection)))

    assert (task.status, task.sample_url) == (status, None)
    assert after == before


async def test_an_earlier_attempt_is_superseded_and_its_cost_is_added(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        plan_task(connection)
        attempts.mark_sent(connection, "sub_1", START, callback_requested=True)
        plan_attempt(connection, "sub_2", "task_1", number=2)
        task_updates.move(connection, "task_1", Status.SUBMITTING, START, attempt_id="sub_2")
        attempts.mark_sent(connection, "sub_2", START, callback_requested=True)

    await database.write(prepare)
    effects = await settled(
        database, [answer(TAKEN, "1"), answer(TAKEN, "2"), evidence_of(READY, "1"), evidence_of(READY, "2")]
    )
    task = await database.read(task_of)

    assert effects == [Effect.SUPERSEDED, Effect.MOVED, Effect.SUPERSEDED, Effect.MOVED]
    assert (task.status, task.cost) == (Status.READY, 8.0)


@pytest.mark.parametrize(
    ("report", "tries", "soonest", "paused"),
    [
        (Report(Said.BUSY), 0, 1.0, True),
        (Report(Said.BUSY, retry_after=timedelta(seconds=40)), 0, 40.0, True),
        (Report(Said.UNPAID), 0, 30.0, True),
        (Report(Said.DOWN), 1, 1.0, False),
        (Report(Said.DOWN, retry_after=timedelta(seconds=40)), 1, 40.0, False),
    ],
)
async def test_a_temporary_refusal_requeues_the_task_and_schedules_the_next_try(
    database: Database, report: Report, tries: int, soonest: float, *, paused: bool
) -> None:
    def prepare(connection: Connection) -> None:
        put_account(connection)
        put_sent_task(connection)
        take_slot(connection)

    await database.write(prepare)
    await settled(database, [answer(report, seconds=0)])
    task, left, account, held = await database.read(
        lambda connection: (
            task_of(connection),
            waiting(connection),
            provider_accounts.get(connection, "account"),
            slots.of_accounts(connection, "account"),
        )
    )

    ((_, step, run_at),) = left
    assert account is not None
    assert (task.status, task.tries, step, held) == (Status.QUEUED, tries, "admit", [])
    assert timedelta(seconds=soonest) <= run_at - START <= timedelta(seconds=soonest * 1.25)
    assert account.paused(START) == paused


async def test_a_failure_is_recorded_with_its_reason_and_money_spent(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        for name in ("1", "2"):
            put_sent_task(connection, name)

    await database.write(prepare)
    refused = Report(Said.REFUSED, failure=Failure.OUT_OF_CREDITS, detail="empty")
    await settled(database, [evidence_of(FAILED), answer(refused, "2")])
    first, second = await database.read(lambda connection: (task_of(connection), task_of(connection, "2")))

    assert (first.failure, first.failure_detail, first.money_spent) == (
        Failure.CONTENT_MODERATED,
        "NSFW",
        MoneySpent.MAYBE,
    )
    assert (second.failure, second.money_spent) == (Failure.OUT_OF_CREDITS, MoneySpent.NO)


async def test_a_hint_schedules_one_poll_and_none_for_an_unknown_attempt(database: Database) -> None:
    await database.write(put_sent_task)
    for attempt_id in ("sub_1", "sub_1", "sub_none"):
        await database.write(lambda connection, of=attempt_id: enqueue_polls(connection, {of}, START))  # type: ignore[misc]

    assert await database.read(waiting) == [("task_1", "reconcile", START)]
    assert [job.task_id for job in await database.write(lambda connection: claim(connection, START))] == ["task_1"]
