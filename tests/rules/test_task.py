from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rules.task import (
    MAX_TRIES,
    MOVES,
    AttemptState,
    Decision,
    Effect,
    Failure,
    MoneySpent,
    Outcome,
    Report,
    Said,
    Status,
    Witness,
    decide,
    money_spent,
    sources,
)

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
FINAL = {Status.STORED, Status.FAILED, Status.CANCELLED}
OPEN = set(Status) - FINAL
# The state diagram as pairs, repeated here on purpose.
ALLOWED = {
    (Status.QUEUED, Status.SUBMITTING),
    (Status.QUEUED, Status.SUBMITTED),
    (Status.QUEUED, Status.READY),
    (Status.QUEUED, Status.FAILED),
    (Status.QUEUED, Status.CANCELLED),
    (Status.SUBMITTING, Status.QUEUED),
    (Status.SUBMITTING, Status.SUBMITTED),
    (Status.SUBMITTING, Status.READY),
    (Status.SUBMITTING, Status.FAILED),
    (Status.SUBMITTED, Status.READY),
    (Status.SUBMITTED, Status.FAILED),
    (Status.READY, Status.STORED),
    (Status.READY, Status.FAILED),
}

ids = st.sampled_from([None, "id-1", "id-2"])
links = st.sampled_from([None, "https://a.bfl.ai/1", "https://a.bfl.ai/2"])
ends = st.sampled_from([None, NOW - timedelta(minutes=1), NOW + timedelta(minutes=1), NOW + timedelta(minutes=10)])
states = st.builds(
    AttemptState,
    status=st.sampled_from(Status),
    current=st.booleans(),
    outcome=st.sampled_from(Outcome),
    provider_id=ids,
    sample_url=links,
    sample_expires_at=ends,
    cost=st.sampled_from([None, 4.0]),
    tries=st.integers(min_value=0, max_value=MAX_TRIES + 1),
)
open_states = states.filter(lambda state: not state.status.final).map(lambda state: state._replace(current=True))
reports = st.builds(
    Report,
    said=st.sampled_from(Said),
    provider_id=ids,
    sample_url=links,
    sample_expires_at=ends,
    cost=st.sampled_from([None, 4.0]),
    failure=st.sampled_from([None, *Failure]),
)
witnesses = st.sampled_from(Witness)


def state(status: Status, outcome: Outcome = Outcome.UNKNOWN, **known: object) -> AttemptState:
    return AttemptState(status, current=True, outcome=outcome)._replace(**known)  # type: ignore[arg-type]


# Moves


@pytest.mark.parametrize(("source", "target"), list(product(Status, Status)), ids=lambda status: str(status.value))
def test_exactly_the_moves_of_the_state_diagram_are_allowed(source: Status, target: Status) -> None:
    assert (target in MOVES[source]) == ((source, target) in ALLOWED)


@pytest.mark.parametrize("status", list(Status))
def test_a_final_state_has_no_moves(status: Status) -> None:
    assert status.final == (status in FINAL)


@pytest.mark.parametrize("target", list(Status))
def test_the_sources_of_a_state_are_its_moves_read_backwards(target: Status) -> None:
    assert sources(target) == {source for source, reached in ALLOWED if reached is target}


def test_every_state_is_reached_from_queued() -> None:
    reached = {Status.QUEUED}
    for _ in Status:
        reached |= {target for source in reached for target in MOVES[source]}

    assert reached == set(Status)


# The effects of reports


@pytest.mark.parametrize(
    ("outcome", "said", "decision"),
    [
        (Outcome.ACCEPTED, Said.FAILED, Decision(Effect.SUPERSEDED)),
        (Outcome.UNKNOWN, Said.FAILED, Decision(Effect.SUPERSEDED)),
        (Outcome.ACCEPTED, Said.PENDING, Decision(Effect.SUPERSEDED)),
        (Outcome.UNKNOWN, Said.PENDING, Decision(Effect.MOVED, Status.SUBMITTED)),
        (Outcome.ACCEPTED, Said.READY, Decision(Effect.MOVED, Status.READY)),
        (Outcome.UNKNOWN, Said.READY, Decision(Effect.MOVED, Status.READY)),
    ],
)
def test_a_repeated_report_of_the_last_attempt_does_not_undo_a_resubmit(
    outcome: Outcome, said: Said, decision: Decision
) -> None:
    assert decide(state(Status.QUEUED, outcome), Report(said), Witness.CALLBACK, NOW, proven=True) == decision


PENDING_TO = {Status.QUEUED: Status.SUBMITTED, Status.SUBMITTING: Status.SUBMITTED}
BUSY_TO = {Status.SUBMITTING: Status.QUEUED}
FAILED_TO = dict.fromkeys((Status.QUEUED, Status.SUBMITTING, Status.SUBMITTED), Status.FAILED)
READY_TO = dict.fromkeys((Status.QUEUED, Status.SUBMITTING, Status.SUBMITTED), Status.READY)
TARGETS: dict[Said, dict[Status, Status]] = {
    Said.PENDING: PENDING_TO,
    Said.READY: READY_TO,
    Said.FAILED: FAILED_TO,
    # Only an accepted attempt can be ready, so a refusal would be a contradiction.
    Said.REFUSED: FAILED_TO,
    Said.BUSY: BUSY_TO,
    Said.UNPAID: BUSY_TO,
    Said.KEY_REFUSED: BUSY_TO,
    Said.BLOCKED: BUSY_TO,
    Said.DOWN: BUSY_TO,
}


@pytest.mark.parametrize(
    ("status", "said"), list(product(sorted(OPEN), Said)), ids=lambda value: str(getattr(value, "value", value))
)
def test_a_proven_report_about_the_current_attempt_moves_where_the_table_says(status: Status, said: Said) -> None:
    outcomes = {Status.READY: Outcome.ACCEPTED, Status.QUEUED: Outcome.REFUSED}

    decision = decide(
        state(status, outcomes.get(status, Outcome.UNKNOWN)), Report(said), Witness.POLL, NOW, proven=True
    )

    assert decision.to == TARGETS.get(said, {}).get(status)


@pytest.mark.parametrize(
    ("status", "said", "current", "proven"),
    list(product(sorted(FINAL), Said, [True, False], [True, False])),
    ids=lambda value: str(getattr(value, "value", value)),
)
def test_any_report_about_a_final_task_is_late(status: Status, said: Said, *, current: bool, proven: bool) -> None:
    about = state(status)._replace(current=current)

    assert decide(about, Report(said), Witness.CALLBACK, NOW, proven=proven) == Decision(Effect.LATE)


@pytest.mark.parametrize(
    ("status", "said", "proven"),
    list(product(sorted(OPEN), Said, [True, False])),
    ids=lambda value: str(getattr(value, "value", value)),
)
def test_any_report_about_an_earlier_attempt_is_superseded(status: Status, said: Said, *, proven: bool) -> None:
    about = state(status)._replace(current=False)

    assert decide(about, Report(said), Witness.CALLBACK, NOW, proven=proven) == Decision(Effect.SUPERSEDED)


@pytest.mark.parametrize(
    ("status", "said"), list(product(sorted(OPEN), Said)), ids=lambda value: str(getattr(value, "value", value))
)
def test_an_unproven_report_is_a_hint_and_changes_nothing(status: Status, said: Said) -> None:
    assert decide(state(status), Report(said), Witness.CALLBACK, NOW, proven=False) == Decision(Effect.HINTED)


def test_a_proven_report_in_unknown_words_is_a_hint() -> None:
    report = Report(Said.UNCLEAR, provider_id="id-1")

    assert decide(state(Status.SUBMITTED), report, Witness.CALLBACK, NOW, proven=True) == Decision(Effect.HINTED)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.SUBMITTING], ids=["after a refusal", "after a lost answer"])
def test_a_signed_callback_proves_that_an_attempt_was_accepted_after_all(status: Status) -> None:
    report = Report(Said.READY, provider_id="id-1", sample_url="https://a.bfl.ai/1")

    assert decide(state(status), report, Witness.CALLBACK, NOW, proven=True) == Decision(Effect.MOVED, Status.READY)


def test_a_task_with_a_lost_answer_awaits_evidence_and_is_not_resent() -> None:
    decision = decide(state(Status.SUBMITTING), Report(Said.LOST), Witness.SUBMIT, NOW, proven=True)

    assert decision == Decision(Effect.HELD)


def test_a_task_whose_id_is_unknown_awaits_evidence_because_another_region_may_know_it() -> None:
    decision = decide(state(Status.SUBMITTED), Report(Said.NOT_FOUND), Witness.POLL, NOW, proven=True)

    assert decision == Decision(Effect.HELD)


@pytest.mark.parametrize(
    ("tries", "to"), [(MAX_TRIES - 2, Status.QUEUED), (MAX_TRIES - 1, Status.FAILED)], ids=["last but one", "last"]
)
@pytest.mark.parametrize("said", [Said.DOWN, Said.KEY_REFUSED, Said.BLOCKED])
def test_an_outage_requeues_the_task_until_its_tries_are_used_up(tries: int, to: Status, said: Said) -> None:
    about = state(Status.SUBMITTING, tries=tries)

    assert decide(about, Report(said), Witness.SUBMIT, NOW, proven=True) == Decision(Effect.MOVED, to)


@pytest.mark.parametrize("said", [Said.BUSY, Said.UNPAID])
def test_full_slots_and_missing_credits_never_use_up_the_tries(said: Said) -> None:
    about = state(Status.SUBMITTING, tries=MAX_TRIES)

    assert decide(about, Report(said), Witness.SUBMIT, NOW, proven=True) == Decision(Effect.MOVED, Status.QUEUED)


@pytest.mark.parametrize("said", [Said.REFUSED, Said.BUSY, Said.DOWN])
@pytest.mark.parametrize("status", sorted(OPEN))
def test_a_refusal_contradicts_a_proven_acceptance(status: Status, said: Said) -> None:
    about = state(status, Outcome.ACCEPTED)

    assert decide(about, Report(said), Witness.SUBMIT, NOW, proven=True) == Decision(Effect.CONTRADICTED)


def test_a_failure_contradicts_a_known_result() -> None:
    about = state(Status.READY, Outcome.ACCEPTED)

    assert decide(about, Report(Said.FAILED), Witness.CALLBACK, NOW, proven=True) == Decision(Effect.CONTRADICTED)


def test_a_callback_about_another_id_contradicts() -> None:
    about = state(Status.SUBMITTED, Outcome.ACCEPTED, provider_id="id-1")

    decision = decide(about, Report(Said.READY, provider_id="id-2"), Witness.CALLBACK, NOW, proven=True)

    assert decision == Decision(Effect.CONTRADICTED)


def test_the_answer_to_a_poll_counts_whatever_id_it_repeats() -> None:
    about = state(Status.SUBMITTED, Outcome.ACCEPTED, provider_id="id-1")

    decision = decide(about, Report(Said.READY, provider_id="id-of-the-supplier"), Witness.POLL, NOW, proven=True)

    assert decision == Decision(Effect.MOVED, Status.READY)


def test_the_submit_answer_sets_the_id_even_after_a_callback_with_another() -> None:
    about = state(Status.SUBMITTED, Outcome.ACCEPTED, provider_id="id-of-the-supplier")

    decision = decide(about, Report(Said.PENDING, provider_id="id-1"), Witness.SUBMIT, NOW, proven=True)

    assert decision == Decision(Effect.ADOPTED)


@pytest.mark.parametrize(
    ("sample", "effect"),
    [("https://a.bfl.ai/1", Effect.CONFIRMED), ("https://a.bfl.ai/2", Effect.ADOPTED)],
    ids=["the same link", "a fresh link"],
)
def test_a_second_ready_adds_only_a_fresh_link(sample: str, effect: Effect) -> None:
    about = state(Status.READY, Outcome.ACCEPTED, sample_url="https://a.bfl.ai/1")

    assert decide(about, Report(Said.READY, sample_url=sample), Witness.POLL, NOW, proven=True) == Decision(effect)


# When a link expires, in minutes from now.
@pytest.mark.parametrize(
    ("witness", "known", "told", "effect"),
    [
        (Witness.CALLBACK, 5, 6, Effect.ADOPTED),
        (Witness.CALLBACK, -2, -1, Effect.ADOPTED),
        (Witness.CALLBACK, 5, 5, Effect.CONFIRMED),
        (Witness.CALLBACK, 5, 4, Effect.CONFIRMED),
        (Witness.CALLBACK, 5, -1, Effect.CONFIRMED),
        (Witness.POLL, 5, 6, Effect.ADOPTED),
        (Witness.POLL, 5, 4, Effect.ADOPTED),
        (Witness.POLL, 5, -1, Effect.CONFIRMED),
        (Witness.POLL, -2, -1, Effect.ADOPTED),
    ],
)
def test_a_link_of_a_callback_must_outlive_the_known_one_and_a_link_of_a_poll_must_be_valid(
    witness: Witness, known: int, told: int, effect: Effect
) -> None:
    dies_at = NOW + timedelta(minutes=known)
    about = state(Status.READY, Outcome.ACCEPTED, sample_url="https://a.bfl.ai/1", sample_expires_at=dies_at)
    report = Report(Said.READY, sample_url="https://a.bfl.ai/2", sample_expires_at=NOW + timedelta(minutes=told))

    assert decide(about, report, witness, NOW, proven=True) == Decision(effect)


@pytest.mark.parametrize(
    ("known", "effect"), [(None, Effect.ADOPTED), ("id-1", Effect.CONFIRMED)], ids=["new", "known"]
)
def test_pending_adds_only_an_id_that_is_new(known: str | None, effect: Effect) -> None:
    about = state(Status.SUBMITTED, Outcome.ACCEPTED, provider_id=known)

    assert decide(about, Report(Said.PENDING, provider_id="id-1"), Witness.POLL, NOW, proven=True) == Decision(effect)


def test_a_late_pending_does_not_undo_a_result() -> None:
    about = state(Status.READY, Outcome.ACCEPTED, provider_id="id-1")

    decision = decide(about, Report(Said.PENDING, provider_id="id-1"), Witness.CALLBACK, NOW, proven=True)

    assert decision == Decision(Effect.CONFIRMED)


@given(about=states, report=reports, witness=witnesses, proven=st.booleans())
def test_a_decision_moves_exactly_when_it_says_so(
    about: AttemptState, report: Report, witness: Witness, *, proven: bool
) -> None:
    decision = decide(about, report, witness, NOW, proven=proven)

    assert (decision.effect is Effect.MOVED) == (decision.to is not None)


@given(about=states, report=reports, witness=witnesses, proven=st.booleans())
def test_a_decision_only_makes_moves_that_are_allowed(
    about: AttemptState, report: Report, witness: Witness, *, proven: bool
) -> None:
    decision = decide(about, report, witness, NOW, proven=proven)

    assert decision.to is None or decision.to in MOVES[about.status]


@given(states, reports, witnesses)
def test_an_unproven_report_never_moves_a_task(about: AttemptState, report: Report, witness: Witness) -> None:
    assert decide(about, report, witness, NOW, proven=False).to is None


@given(states, reports, witnesses)
def test_no_evidence_moves_a_task_to_cancelled_or_stored(about: AttemptState, report: Report, witness: Witness) -> None:
    assert decide(about, report, witness, NOW, proven=True).to not in {Status.CANCELLED, Status.STORED}


@given(open_states, reports, witnesses)
def test_the_same_report_never_moves_twice(about: AttemptState, report: Report, witness: Witness) -> None:
    first = decide(about, report, witness, NOW, proven=True)
    after = about._replace(
        status=first.to or about.status,
        provider_id=report.provider_id or about.provider_id,
        sample_url=report.sample_url or about.sample_url,
    )

    assert decide(after, report, witness, NOW, proven=True).to is None or first.to is None


@given(open_states, reports, witnesses)
def test_a_report_that_is_repeated_is_confirmed(about: AttemptState, report: Report, witness: Witness) -> None:
    first = decide(about, report, witness, NOW, proven=True)
    after = about._replace(
        provider_id=report.provider_id or about.provider_id, sample_url=report.sample_url or about.sample_url
    )

    if first.effect is Effect.ADOPTED and report.sample_url is not None:
        assert decide(after, report, witness, NOW, proven=True) == Decision(Effect.CONFIRMED)


# Money


@pytest.mark.parametrize(
    ("outcome", "said"), list(product(Outcome, Said)), ids=lambda value: str(getattr(value, "value", value))
)
def test_a_failure_costs_nothing_only_if_the_attempt_was_refused(outcome: Outcome, said: Said) -> None:
    refusals = {Said.REFUSED, Said.BUSY, Said.UNPAID, Said.KEY_REFUSED, Said.BLOCKED, Said.DOWN}
    refused = said in refusals and outcome is not Outcome.ACCEPTED

    assert money_spent(outcome, said) is (MoneySpent.NO if refused else MoneySpent.MAYBE)
