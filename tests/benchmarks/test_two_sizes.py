"""A small record beside a large one: what is announced, and a very short comparison for real."""

from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from app import ids
from app.errors import ConfigurationError
from benchmarks.databases import Postgres
from benchmarks.drive import Drive
from benchmarks.ours import Ours
from benchmarks.stage import Stage
from benchmarks.two_sizes import Sizes, two_sizes


def test_a_million_tasks_stand_beside_a_hundred_thousand_and_fewer_beside_a_tenth() -> None:
    assert Sizes.up_to(3_000_000) == Sizes(100_000, 3_000_000)
    assert Sizes.up_to(2000) == Sizes(200, 2000)


def test_what_a_disk_must_have_free_is_said_beforehand(tmp_path: Path) -> None:
    said = Sizes.up_to(2000).announced([tmp_path])
    assert "200 tasks beside 2,000" in said
    assert "0.02 GB" in said


def test_a_disk_that_has_not_so_much_free_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--growth: 9,000,000,000,000 tasks need") as refused:
        Sizes.up_to(9 * 10**12).announced([tmp_path])
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture(params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    """As much of a stage as two sizes need: no service of its own runs."""
    numbers = count(1)

    @contextmanager
    def file() -> Generator[str]:
        yield f"sqlite:///{tmp_path}/{next(numbers)}.db"

    another = file if request.param == "sqlite" else Postgres(request.getfixturevalue("postgres").dsn).database
    missing = cast("Any", None)
    return Stage(
        ours=Ours("idle", tmp_path, "", ids.new_key()),
        bare=missing,
        hmac=missing,
        naive=missing,
        drive=Drive(tmp_path, connections=4),
        reference_requests=[],
        another=another,
        seconds=0.3,
        rounds=1,
    )


@pytest.mark.proof
def test_both_are_measured_and_what_grew_most_comes_first(stage: Stage) -> None:
    found = two_sizes(stage, Sizes.up_to(2000), rounds=1, times=2)

    assert {"task by id", "16 callbacks", "callbacks, all connections busy", "callbacks at 200/s"} < found.keys()
    ratios = [each["ratio"] for each in found.values()]
    assert ratios == sorted(ratios, reverse=True)
    assert all(value > 0 for each in found.values() for value in each.values())
    assert stage.acknowledged > 0
    assert stage.unstored == 0
