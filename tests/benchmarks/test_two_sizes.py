"""A small and a large database: the announcement, and one short real comparison."""

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from benchmarks.stage import Stage
from benchmarks.two_sizes import Sizes, two_sizes


def test_a_million_tasks_are_compared_with_100_000_and_fewer_with_a_tenth() -> None:
    assert Sizes.up_to(3_000_000) == Sizes(100_000, 3_000_000)
    assert Sizes.up_to(2000) == Sizes(200, 2000)


def test_the_needed_disk_space_is_announced(tmp_path: Path) -> None:
    announcement = Sizes.up_to(2000).announcement([tmp_path])
    assert "200 tasks compared with 2,000" in announcement
    assert "0.02 GB" in announcement


def test_too_little_disk_space_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--growth: 9,000,000,000,000 tasks need") as refused:
        Sizes.up_to(9 * 10**12).announcement([tmp_path])
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.proof
def test_both_sizes_are_measured_and_the_largest_ratio_comes_first(stage: Stage) -> None:
    compared = two_sizes(stage, Sizes.up_to(2000), rounds=1, times=2)

    assert {"task by id", "16 callbacks", "callbacks, all connections busy", "callbacks at 200/s"} < compared.keys()
    assert {"whole task, added", "whole task, post, 24 at once", "whole task, CPU, one at a time"} < compared.keys()
    ratios = [figures["ratio"] for figures in compared.values()]
    assert ratios == sorted(ratios, reverse=True)
    assert all(value > 0 for figures in compared.values() for value in figures.values())
    assert stage.acknowledged > 0
    assert stage.unstored == 0
