"""Poisson arrival times."""

from itertools import pairwise

import pytest

from benchmarks.arrivals import poisson


def test_arrivals_are_in_order_and_within_the_time() -> None:
    due = poisson(rate=500, seconds=4)
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 4


def test_the_number_of_arrivals_matches_the_rate() -> None:
    assert len(poisson(rate=1000, seconds=20)) == pytest.approx(20_000, rel=0.03)


def test_gaps_are_exponentially_distributed() -> None:
    """The standard deviation of exponential gaps equals their mean; that of evenly spaced arrivals is 0."""
    due = poisson(rate=1000, seconds=20)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert poisson(100, 1) == poisson(100, 1)
    assert poisson(100, 1) != poisson(100, 1, seed=2)
