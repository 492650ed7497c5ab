"""What is read out of what became of each request."""

import pytest

from benchmarks.drive import Outcome

MIXED = Outcome(seconds=2.0, statuses=[200, 0, 401, 200], latencies=[0.001, 9.0, 0.002, 0.003], cpu_s=0.3)


def test_only_answers_count_for_the_rate() -> None:
    assert MIXED.answered == 3
    assert MIXED.rate == 1.5


def test_only_a_200_is_an_acknowledgement() -> None:
    assert MIXED.acknowledged == [0, 3]


def test_what_was_not_answered_counts_with_the_time_that_it_waited() -> None:
    assert MIXED.ms(1) == 9000


def test_a_percentile_may_be_of_some_requests_alone() -> None:
    assert MIXED.ms(0.99, [0, 2]) == 2


def test_the_servers_time_is_shared_among_what_it_answered() -> None:
    assert MIXED.cpu_us == pytest.approx(100_000)


def test_where_nothing_was_answered_there_is_no_rate() -> None:
    nothing = Outcome(seconds=0.0, statuses=[0], latencies=[1.0])
    assert (nothing.rate, nothing.cpu_us, nothing.acknowledged) == (0, 0, [])
