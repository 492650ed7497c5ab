"""The cases of a run, and invalid options."""

import pytest

from app.errors import ConfigurationError
from benchmarks.cases import QUICK
from benchmarks.run import CASES, Options
from benchmarks.two_sizes import Sizes


def test_a_quick_run_has_three_cases() -> None:
    assert tuple(Options(quick=True).cases) == QUICK


def test_a_full_run_has_all_cases_and_kills_the_service() -> None:
    assert tuple(Options().cases) == (*CASES, "crash")


def test_an_option_with_a_number_adds_its_case() -> None:
    assert tuple(Options(only=("lone",), kills=3, slow_flush_ms=2).cases) == ("lone", "crash", "slow-flush")


def test_an_unknown_case_is_refused_with_a_list_of_the_cases() -> None:
    with pytest.raises(ConfigurationError, match="no case alone; the cases are closed"):
        Options(only=("alone", "lone"))


def test_a_quick_run_is_shorter() -> None:
    assert Options(quick=True).pace < Options().pace
    assert Options(quick=True, rounds=2, seconds=0.5).pace == (2, 0.5)


def test_two_sizes_are_compared_only_on_request() -> None:
    assert Options().sizes is None
    assert Options(quick=True, tasks=2000).sizes == Sizes(200, 2000)
    alone = Options(only=("growth",))
    assert (alone.sizes, tuple(alone.cases)) == (Sizes(100_000, 1_000_000), ())
