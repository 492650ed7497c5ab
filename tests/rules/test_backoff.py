from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rules import backoff
from app.rules.backoff import WEBHOOK_WAITS, Backoff, read_retry_after, webhook_wait
from tests.rows import START

SECONDS = st.timedeltas(min_value=timedelta(milliseconds=1), max_value=timedelta(hours=1))
NAMED = pytest.mark.parametrize(
    "backoff",
    [backoff.SUBMIT, backoff.BUSY, backoff.UNPAID, backoff.COLLECT, backoff.STEP_FAILED],
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


# Webhooks


def test_a_webhook_is_tried_for_three_days() -> None:
    assert timedelta(hours=71) < sum(WEBHOOK_WAITS, timedelta()) < timedelta(hours=73)
    assert list(WEBHOOK_WAITS) == sorted(WEBHOOK_WAITS)


def test_there_is_no_wait_after_the_last_try() -> None:
    last = len(WEBHOOK_WAITS)

    assert webhook_wait(1, None) == timedelta(seconds=5)
    assert webhook_wait(last, None) == timedelta(hours=24)
    assert webhook_wait(last + 1, None) is None
    assert webhook_wait(last + 1, timedelta(hours=1)) is None


@pytest.mark.parametrize(
    ("wish", "wait"),
    [(timedelta(), 5), (timedelta(seconds=60), 60), (timedelta(days=9), 86_400)],
    ids=["sooner", "later", "much later"],
)
def test_retry_after_may_lengthen_a_wait_by_at_most_a_day(wish: timedelta, wait: int) -> None:
    assert webhook_wait(1, wish) == timedelta(seconds=wait)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("120", timedelta(seconds=120)),
        ("0", timedelta()),
        ("Thu, 01 Jan 2026 12:01:00 GMT", timedelta(seconds=60)),
        ("Thu, 01 Jan 2026 12:01:00 -0000", timedelta(seconds=60)),
        ("Thu, 01 Jan 2026 11:00:00 GMT", timedelta()),
        ("9" * 5000, timedelta(seconds=999_999_999)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),
        ("soon", None),
        ("Thu, 99 Jan 2026 12:01:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2359", timedelta()),
    ],
    ids=lambda value: str(value)[:32],
)
def test_retry_after_is_read_in_both_forms(text: str, wish: timedelta | None) -> None:
    assert read_retry_after(text, START) == wish


@given(st.text())
def test_any_retry_after_is_read_without_an_error(text: str) -> None:
    wish = read_retry_after(text, START)

    assert wish is None or wish >= timedelta()
