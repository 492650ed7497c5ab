"""Budgets: when their periods start, what a task counts with, and what is affordable."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.rules.budget import Budget, Period, Standing, charge, standing
from app.rules.task import MoneySpent, Status

CREDITS = st.floats(min_value=0, max_value=1e6, allow_nan=False)
INSTANTS = st.datetimes(datetime(1970, 1, 2), datetime(4000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(now=INSTANTS, period=st.sampled_from(Period))
def test_periods_cover_all_time_without_overlap(now: datetime, period: Period) -> None:
    start, end = period.start(now), period.end(now)

    assert start <= now < end
    assert period.start(end) == end
    assert period.start(end - timedelta(microseconds=1)) == start


def test_a_month_ends_with_its_last_day_in_utc() -> None:
    in_december = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    elsewhere = in_december.astimezone(timezone(timedelta(hours=9)))

    assert Period.MONTH.end(elsewhere) == datetime(2027, 1, 1, tzinfo=UTC)
    assert Period.DAY.start(elsewhere) == datetime(2026, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "budget"), [("40/day", Budget(40, Period.DAY)), ("0.5/month", Budget(0.5, Period.MONTH))]
)
def test_a_budget_is_read_as_credits_per_period(text: str, budget: Budget) -> None:
    assert Budget.parse(text) == budget
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "40", "/day", "40/year", "-1/day", "nan/day", "inf/month", "forty/day"])
def test_a_budget_that_is_not_credits_per_period_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="credits per day or month"):
        Budget.parse(text)


def test_a_budget_is_nearly_used_from_four_fifths_on_unless_it_is_zero() -> None:
    assert [Budget(20, Period.DAY).nearly_used(spent) for spent in (0, 15.9, 16, 20)] == [False, False, True, True]
    assert not Budget(0, Period.DAY).nearly_used(0)


def test_exactly_the_affordable_number_of_tasks_fits_despite_binary_fractions() -> None:
    budget, spent, tasks = Budget(1, Period.DAY), 0.0, 0
    while budget.affords(spent, 0.1):
        spent, tasks = spent + 0.1, tasks + 1

    assert tasks == 10
    assert budget.remaining(spent) == 0


@pytest.mark.parametrize(
    ("status", "money_spent", "expected"),
    [
        (Status.QUEUED, None, Standing.OPEN),
        (Status.SUBMITTING, None, Standing.OPEN),
        (Status.SUBMITTED, None, Standing.OPEN),
        (Status.READY, None, Standing.SPENT),
        (Status.STORED, None, Standing.SPENT),
        (Status.CANCELLED, None, Standing.FREE),
        (Status.FAILED, MoneySpent.NO, Standing.FREE),
        (Status.FAILED, MoneySpent.MAYBE, Standing.SPENT),
        (Status.FAILED, MoneySpent.YES, Standing.SPENT),
        (Status.FAILED, None, Standing.SPENT),
    ],
)
def test_only_a_task_that_certainly_cost_nothing_is_free(
    status: Status, money_spent: MoneySpent | None, expected: Standing
) -> None:
    assert standing(status, money_spent) is expected


@given(reserved=CREDITS, of=st.sampled_from(Standing))
def test_without_a_cost_the_reservation_counts_unless_the_task_was_free(reserved: float, of: Standing) -> None:
    assert charge(reserved, None, of) == (0 if of is Standing.FREE else reserved)


@given(reserved=CREDITS, cost=CREDITS, of=st.sampled_from([Standing.FREE, Standing.SPENT]))
def test_once_a_task_has_ended_the_stated_cost_counts(reserved: float, cost: float, of: Standing) -> None:
    assert charge(reserved, cost, of) == cost


@given(reserved=CREDITS, cost=CREDITS)
def test_an_open_task_keeps_its_reservation_and_counts_a_higher_cost_at_once(reserved: float, cost: float) -> None:
    assert charge(reserved, cost, Standing.OPEN) == max(reserved, cost)
