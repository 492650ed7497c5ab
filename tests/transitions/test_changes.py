"""What follows from a judged piece of evidence, without a database: what is learned, what moves, what comes next."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.db.queries.apply_changes import TaskChange
from app.db.queries.attempt_contexts import AttemptContext
from app.db.tables.evidence import Evidence
from app.jobs import Step
from app.rules.backoff import SUBMIT
from app.rules.task import AttemptState, Decision, Effect, Failure, MoneySpent, Outcome, Report, Said, Status, Witness
from app.security.verify import Verdict
from app.transitions.changes import attempt_change, cost_change, next_jobs, task_change

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
EXPIRES = NOW + timedelta(minutes=10)
POLL_AFTER = timedelta(seconds=20)
READY = Report(Said.READY, "p1", sample_url="https://bfl.ai/1", sample_expires_at=EXPIRES, seed=2**70)
TO_READY = Decision(Effect.MOVED, Status.READY)


def attempt(outcome: Outcome = Outcome.UNKNOWN, **known: Any) -> AttemptContext:
    state = AttemptState(status=Status.SUBMITTING, current=True, outcome=outcome, **known)
    return AttemptContext(
        "sub_1",
        "task_1",
        "account",
        "key",
        "a-model",
        has_webhook=True,
        has_slot=True,
        has_reservation=False,
        state=state,
    )


def said(report: Report, witness: Witness = Witness.CALLBACK) -> Evidence:
    verdict = Verdict.SIGNED if witness is Witness.CALLBACK else Verdict.FETCHED
    return Evidence("sub_1", witness, verdict, proven=True, report=report, body=b"", received_at=NOW)


# What is learned of the attempt


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (Said.PENDING, Outcome.ACCEPTED),
        (Said.READY, Outcome.ACCEPTED),
        (Said.FAILED, Outcome.ACCEPTED),
        (Said.REFUSED, Outcome.REFUSED),
        (Said.BUSY, Outcome.REFUSED),
        (Said.UNPAID, Outcome.REFUSED),
        (Said.DOWN, Outcome.REFUSED),
        (Said.LOST, None),
        (Said.NOT_FOUND, None),
        (Said.UNCLEAR, None),
    ],
)
def test_each_report_determines_the_outcome_of_the_attempt(kind: Said, outcome: Outcome | None) -> None:
    assert attempt_change(attempt(), said(Report(kind), Witness.SUBMIT)).outcome == outcome


@pytest.mark.parametrize("kind", list(Said))
def test_an_accepted_attempt_stays_accepted(kind: Said) -> None:
    assert attempt_change(attempt(Outcome.ACCEPTED), said(Report(kind), Witness.SUBMIT)).outcome is None


def test_a_known_id_is_replaced_only_by_the_submit_answer() -> None:
    known = attempt(provider_id="p0")

    assert attempt_change(known, said(READY)).provider_id is None
    assert attempt_change(known, said(READY, Witness.SUBMIT)).provider_id == "p1"
    assert attempt_change(attempt(), said(READY)).provider_id == "p1"


def test_a_cost_that_is_known_is_not_learned_again() -> None:
    report = Report(Said.PENDING, cost=4.0)

    assert attempt_change(attempt(), said(report)).cost == 4.0
    assert attempt_change(attempt(cost=4.0), said(report)).cost is None


@pytest.mark.parametrize("cost", [0.0, 3.0, 5.0])
def test_a_settled_cost_changes_the_cost_of_the_task_by_the_difference(cost: float) -> None:
    known = attempt(cost=4.0)
    change = attempt_change(known, said(READY._replace(cost=cost), Witness.POLL))

    assert change.cost == cost
    assert cost_change(known, change) == cost - 4.0


def test_no_stated_cost_changes_nothing() -> None:
    assert cost_change(attempt(cost=4.0), attempt_change(attempt(cost=4.0), said(READY))) is None


def test_only_the_submit_answer_sets_answered_at() -> None:
    assert attempt_change(attempt(), said(READY, Witness.SUBMIT)).answered_at == NOW
    assert attempt_change(attempt(), said(READY)).answered_at is None


# What moves


def test_a_result_sets_link_expiry_and_seed() -> None:
    assert task_change(attempt(), said(READY), TO_READY) == TaskChange(
        status=Status.READY,
        ready_at=NOW,
        tries=0,
        sample_url="https://bfl.ai/1",
        sample_expires_at=EXPIRES,
        seed=str(2**70),
    )


def test_a_fresh_link_is_adopted_and_a_contradiction_is_not_applied() -> None:
    assert task_change(attempt(), said(READY), Decision(Effect.ADOPTED)).sample_url == READY.sample_url
    for effect in (Effect.CONTRADICTED, Effect.LATE, Effect.SUPERSEDED, Effect.HINTED, Effect.REJECTED):
        assert task_change(attempt(), said(READY), Decision(effect)) == TaskChange()


@pytest.mark.parametrize("kind", [Said.BUSY, Said.UNPAID])
def test_a_pause_of_the_account_uses_no_try_of_the_task(kind: Said) -> None:
    report = Report(kind, retry_after=timedelta(seconds=40))
    change = task_change(attempt(), said(report, Witness.SUBMIT), Decision(Effect.MOVED, Status.QUEUED))

    assert change == TaskChange(status=Status.QUEUED, tries=0)


@pytest.mark.parametrize(("tries", "wait"), [(0, SUBMIT.wait(1)), (3, SUBMIT.wait(4)), (19, SUBMIT.longest)])
def test_an_outage_uses_a_try_and_waits_longer_each_time(tries: int, wait: timedelta) -> None:
    change = task_change(
        attempt(tries=tries), said(Report(Said.DOWN), Witness.SUBMIT), Decision(Effect.MOVED, Status.QUEUED)
    )

    assert change.tries == 1
    assert change.dispatch_after_at is not None
    assert wait <= change.dispatch_after_at - NOW <= wait * 1.25


def test_an_outage_waits_as_long_as_the_provider_asks() -> None:
    report = Report(Said.DOWN, retry_after=timedelta(seconds=90))
    change = task_change(attempt(), said(report, Witness.SUBMIT), Decision(Effect.MOVED, Status.QUEUED))

    assert change.dispatch_after_at is not None
    assert timedelta(seconds=90) <= change.dispatch_after_at - NOW <= timedelta(seconds=90) * 1.25


def test_a_failure_has_its_reason_and_money_spent() -> None:
    failed = Decision(Effect.MOVED, Status.FAILED)
    report = Report(Said.FAILED, failure=Failure.CONTENT_MODERATED, detail="NSFW")
    nameless = task_change(attempt(), said(Report(Said.REFUSED)), failed)

    assert task_change(attempt(), said(report), failed) == TaskChange(
        status=Status.FAILED,
        failed_at=NOW,
        tries=0,
        failure=Failure.CONTENT_MODERATED,
        failure_detail="NSFW",
        money_spent=MoneySpent.MAYBE,
    )
    assert (nameless.failure, nameless.money_spent) == (Failure.PROVIDER_ERROR, MoneySpent.NO)


# What is to be done next


@pytest.mark.parametrize(
    ("decision", "report", "witness", "jobs"),
    [
        (TO_READY, READY, Witness.CALLBACK, [(Step.COLLECT, NOW)]),
        (Decision(Effect.ADOPTED), READY, Witness.POLL, [(Step.COLLECT, NOW)]),
        (Decision(Effect.ADOPTED), Report(Said.PENDING, "p1"), Witness.POLL, []),
        (
            Decision(Effect.MOVED, Status.SUBMITTED),
            Report(Said.PENDING),
            Witness.SUBMIT,
            [(Step.RECONCILE, NOW + POLL_AFTER)],
        ),
        (Decision(Effect.HINTED), READY, Witness.CALLBACK, [(Step.RECONCILE, NOW)]),
        (Decision(Effect.CONTRADICTED), READY, Witness.CALLBACK, [(Step.RECONCILE, NOW)]),
        (Decision(Effect.CONTRADICTED), READY, Witness.POLL, []),
        (Decision(Effect.MOVED, Status.QUEUED), Report(Said.DOWN), Witness.SUBMIT, []),
        (Decision(Effect.MOVED, Status.FAILED), Report(Said.FAILED), Witness.CALLBACK, []),
        (Decision(Effect.REJECTED), READY, Witness.CALLBACK, []),
        (Decision(Effect.LATE), READY, Witness.CALLBACK, []),
        (Decision(Effect.SUPERSEDED), READY, Witness.CALLBACK, []),
        (Decision(Effect.HELD), Report(Said.LOST), Witness.SUBMIT, [(Step.RECONCILE, NOW)]),
        (Decision(Effect.HELD), Report(Said.LOST), Witness.POLL, []),
        (Decision(Effect.HELD), Report(Said.NOT_FOUND), Witness.POLL, []),
    ],
)
def test_each_decision_enqueues_its_jobs(
    decision: Decision, report: Report, witness: Witness, jobs: list[tuple[Step, datetime]]
) -> None:
    left = next_jobs(attempt(), said(report, witness), decision, POLL_AFTER)

    assert left == [(step, "task_1", at) for step, at in jobs]
