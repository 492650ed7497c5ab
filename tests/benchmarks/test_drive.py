"""Figures derived from the outcome of each request."""

import pytest

from benchmarks.drive import Outcome

MIXED = Outcome(seconds=2.0, statuses=[200, 0, 401, 200], latencies=[0.001, 9.0, 0.002, 0.003], cpu_s=0.3)


def test_only_answered_requests_count_for_the_rate() -> None:
    assert MIXED.answered == 3
    assert MIXED.rate == 1.5


def test_only_status_200_is_an_acknowledgement() -> None:
    assert MIXED.acknowledged == [0, 3]


def test_an_unanswered_request_counts_with_the_time_that_it_waited() -> None:
    assert MIXED.ms(1) == 9000


def test_a_percentile_can_be_limited_to_some_requests() -> None:
    assert MIXED.ms(0.99, [0, 2]) == 2


def test_cpu_time_is_divided_by_the_number_of_answers() -> None:
    assert MIXED.cpu_us == pytest.approx(100_000)


def test_without_answers_all_figures_are_zero() -> None:
    nothing = Outcome(seconds=0.0, statuses=[0], latencies=[1.0])
    assert (nothing.rate, nothing.cpu_us, nothing.acknowledged) == (0, 0, [])
