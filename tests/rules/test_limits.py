"""The limits of an application, and the rate at which it may post."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.rules.limits import Limits, Refused, Taken, take
from tests.rows import START


def admitted(per_minute: int, arrivals: list[datetime]) -> list[datetime]:
    """Return the arrivals that are admitted."""
    busy_until, passed = None, []
    for at in arrivals:
        decision = take(busy_until, at, per_minute)
        if isinstance(decision, Taken):
            busy_until = decision.busy_until
            passed.append(at)
    return passed


@given(per_minute=st.integers(1, 600))
def test_the_requests_of_a_whole_minute_may_come_at_once_and_no_more(per_minute: int) -> None:
    assert len(admitted(per_minute, [START] * (per_minute + 5))) == per_minute


@given(per_minute=st.integers(1, 60), gaps=st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_over_any_time_no_more_than_its_share_and_one_minute_pass(per_minute: int, gaps: list[int]) -> None:
    arrivals = [START]
    for gap in gaps:
        arrivals.append(arrivals[-1] + timedelta(milliseconds=gap))

    minutes = (arrivals[-1] - START) / timedelta(minutes=1)

    assert len(admitted(per_minute, arrivals)) <= per_minute * (1 + minutes) + 0.01


@given(per_minute=st.integers(1, 60))
def test_the_wait_of_a_refusal_is_as_long_as_needed(per_minute: int) -> None:
    busy_until = START + timedelta(minutes=1)
    refusal = take(busy_until, START, per_minute)

    assert isinstance(refusal, Refused)
    assert isinstance(take(busy_until, START + refusal.wait, per_minute), Taken)
    assert isinstance(take(busy_until, START + refusal.wait - timedelta(microseconds=1), per_minute), Refused)


def test_a_limit_of_zero_admits_nothing() -> None:
    assert take(None, START, 0) == Refused(timedelta(minutes=1))


def test_an_application_keeps_the_defaults_that_it_does_not_replace() -> None:
    limits = Limits(queued=5, streams=3).followed_by({"queued": None, "priority": 4, "unknown": 1})

    assert limits == Limits(queued=None, streams=3, priority=4)
