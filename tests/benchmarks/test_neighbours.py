"""Neighbours: the figures, and one short real run."""

import os
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.neighbours import KINDS, Seen, figures, neighbours
from benchmarks.report import AIMS
from benchmarks.stage import Stage


def seen(callbacks_s: float, posts_s: float) -> Seen:
    return Seen(callbacks=[callbacks_s], posts=[posts_s], seconds=2.0, service_s=1.0)


def test_the_ratios_come_first_and_those_beside_all_neighbours_before_the_others() -> None:
    found = figures({"quiet": seen(0.01, 0.02), **{kind: seen(0.02, 0.02) for kind in KINDS}, "all": seen(0.05, 0.08)})

    assert list(found.items())[:4] == [
        ("neighbour_callbacks_times_p99", 5.0),
        ("neighbour_posts_times_p99", 4.0),
        ("neighbour_callbacks_times_p99_listing", 2.0),
        ("neighbour_posts_times_p99_listing", 1.0),
    ]
    assert found["neighbour_callbacks_p99_ms_all"] == 50
    assert found["neighbour_service_cpus_quiet"] == 0.5


def test_every_ratio_has_a_target() -> None:
    found = figures({name: seen(1, 1) for name in ("quiet", *KINDS, "all")})
    ratios = {name for name in found if "_times_p99" in name}

    assert {aim.figure for aim in AIMS if aim.figure.startswith("neighbour_")} == ratios


def test_a_twin_gives_way_on_request(tmp_path: Path) -> None:
    with processes.running(["benchmarks.servers", "bare"], tmp_path / "log", gives_way=True) as process:
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0) + processes.WAY


@pytest.mark.proof
def test_callbacks_and_posts_are_measured_beside_each_kind_of_noise(stage: Stage) -> None:
    found = neighbours(stage)

    assert all(found[f"neighbour_{name}_p99_ms_{kind}"] > 0 for name in ("callbacks", "posts") for kind in KINDS)
    # On a busy machine a kind may get no answer in a phase as short as here.
    assert sum(found[f"neighbour_{kind}_rate"] for kind in KINDS) > 0
    assert stage.acknowledged > 0
    assert stage.unstored == 0
