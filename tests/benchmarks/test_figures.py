"""Percentiles and medians."""

import math

import pytest

from benchmarks.figures import median, percentile


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1, 100)])
def test_a_percentile_is_a_measured_value(share: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), share) == expected


def test_the_percentile_of_one_value_is_that_value() -> None:
    assert [percentile([7.0], share) for share in (0, 0.5, 1)] == [7.0] * 3


@pytest.mark.parametrize(("values", "expected"), [([3], 3), ([5, 1, 3], 3), ([4, 1, 3, 2], 2.5)])
def test_a_median_is_the_middle_value(values: list[float], expected: float) -> None:
    assert median(values) == expected


def test_without_values_both_are_nan() -> None:
    assert math.isnan(percentile([], 0.5))
    assert math.isnan(median([]))
