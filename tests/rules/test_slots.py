"""The limit of tasks in flight that refusals lower for a while."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.rules.slots import RECOVERY, Lowered, allowed, lower, next_rise

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_refusal_lowers_the_limit_to_the_tasks_that_the_provider_has() -> None:
    assert lower(24, None, 10, NOW) == Lowered(10, NOW)


def test_a_refusal_while_no_other_task_is_in_flight_says_nothing_about_slots() -> None:
    assert lower(24, None, 0, NOW) is None


def test_a_refusal_of_a_task_that_was_sent_before_the_limit_was_lowered_does_not_raise_it() -> None:
    assert lower(24, Lowered(10, NOW), 12, NOW + timedelta(seconds=1)) is None


@given(limit=st.integers(1, 100), to=st.integers(1, 100), seconds=st.integers(-60, 600))
def test_a_lowered_limit_rises_evenly_to_the_configured_one(limit: int, to: int, seconds: int) -> None:
    passed = timedelta(seconds=seconds)
    now = allowed(limit, Lowered(to, NOW), NOW + passed)
    later = allowed(limit, Lowered(to, NOW), NOW + passed + timedelta(seconds=1))

    assert min(limit, to) <= now <= later <= limit
    assert passed < RECOVERY or now == limit
    assert passed > timedelta() or now == min(limit, to)


@given(limit=st.integers(1, 100), to=st.integers(1, 100), seconds=st.floats(0, 130))
def test_the_next_rise_of_a_lowered_limit_is_when_one_more_task_is_allowed(limit: int, to: int, seconds: float) -> None:
    lowered, now = Lowered(to, NOW), NOW + timedelta(seconds=seconds)
    at = next_rise(limit, lowered, now)

    assert (at is None) == (allowed(limit, lowered, now) == limit)
    if at is not None:
        assert allowed(limit, lowered, at) == allowed(limit, lowered, now) + 1
        assert allowed(limit, lowered, at - timedelta(microseconds=1)) == allowed(limit, lowered, now)
