from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import retry
from app.retry import Backoff

SECONDS = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=1))
NAMED = pytest.mark.parametrize(
    "backoff",
    [retry.SUBMIT, retry.BUSY, retry.UNPAID, retry.COLLECT, retry.STEP_FAILED],
    ids=["submit", "busy", "unpaid", "collect", "step"],
)


def test_waits_double_until_the_longest() -> None:
    backoff = Backoff(first=timedelta(seconds=1), longest=timedelta(seconds=10))

    assert [backoff.wait(attempt).total_seconds() for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


@given(first=SECONDS, longest=SECONDS, attempt=st.integers(min_value=1, max_value=10**9))
def test_no_wait_is_longer_than_the_longest(first: timedelta, longest: timedelta, attempt: int) -> None:
    assert Backoff(first, longest).wait(attempt) <= longest


@given(first=SECONDS, longest=SECONDS, attempt=st.integers(min_value=1, max_value=100))
def test_waits_never_shrink(first: timedelta, longest: timedelta, attempt: int) -> None:
    backoff = Backoff(first, longest)

    assert backoff.wait(attempt) <= backoff.wait(attempt + 1)


@NAMED
def test_the_first_wait_of_a_named_backoff_is_its_first(backoff: Backoff) -> None:
    assert backoff.wait(1) == backoff.first


@NAMED
def test_a_named_backoff_reaches_its_longest_wait(backoff: Backoff) -> None:
    assert backoff.wait(20) == backoff.longest
