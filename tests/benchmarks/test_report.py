"""The report: ratios with their targets first, JSON with promised keys, and the chart."""

import json
import math
from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.chart import svg
from benchmarks.report import document, number, text

MACHINE = {
    "processors": 2,
    "processor": "a processor",
    "kernel": "6.1",
    "python": "3.11",
    "sqlite": "3.40",
    "file_system": "ext4",
    "load_before": 0.2,
    "idle_share": 0.25,
    "stolen_share": 0.001,
    "seconds": 55.0,
    "noisy": False,
}
CLOSED = {
    "share_of_bare": 0.25,
    "times_naive": 8.0,
    "bare_rate": 20000.0,
    "hmac_rate": 6000.0,
    "naive_rate": 500.0,
    "ours_rate": 5000.0,
    "unstored": 0,
}


def results(**changes: Any) -> dict[str, Any]:
    return {"machine": MACHINE, "sqlite": CLOSED, "postgres": None, "left_out": {"postgres": "no server"}, **changes}


def test_the_ratios_come_first_with_their_targets() -> None:
    lines = text(results()).splitlines()
    assert "of bare uvicorn's rate" in lines[1]
    assert "0.25 (≥ 0.20)" in lines[1]
    assert "8 (≥ 10) MISSED" in lines[2]


def test_the_figures_behind_the_ratios_follow() -> None:
    report = text(results())
    assert report.index("times the naive") < report.index("bare_rate") < report.index("ext4")


def test_a_database_that_was_left_out_is_named() -> None:
    assert text(results()).endswith("postgres: left out, no server\n")


GROWN = {
    "small_tasks": 100_000,
    "large_tasks": 1_000_000,
    "sqlite": {
        "list": {"ratio": 1.5, "p99_ratio": 2.0, "small_ms": 0.4},
        "task by id": {"ratio": 1.1, "p99_ratio": 1.2, "small_ms": 0.3},
    },
    "postgres": {
        "list": {"ratio": 1.0, "p99_ratio": 1.0, "small_ms": 1.4},
        "task by id": {"ratio": 3.0, "p99_ratio": 4.0, "small_ms": 1.3},
    },
}


def test_the_largest_ratio_on_any_database_comes_first() -> None:
    report = text(results(postgres=CLOSED, growth=GROWN))
    lines = report[report.index("large/small: 1,000,000 / 100,000 tasks") :].splitlines()
    assert lines[1].split() == ["task", "by", "id", "1.10,", "1.20,", "0.30", "3,", "4,", "1.30"]
    assert lines[2].startswith("list ")
    assert json.loads(document(results(growth=GROWN)))["growth"] == GROWN


def test_a_whole_task_that_grows_by_more_than_a_fifth_misses_its_target() -> None:
    paths = {"whole task, added": 1.3, "whole task, CPU, one at a time": 1.2, "list": 1.3}
    grown = {path: {"ratio": ratio, "p99_ratio": 1.0, "small_ms": 1.0} for path, ratio in paths.items()}
    lines = text(results(growth={**GROWN, "sqlite": grown, "postgres": {}})).splitlines()

    assert [line.split(",")[0].split()[0] for line in lines if "MISSED" in line and "≥" not in line] == ["whole"]


def test_a_busy_machine_is_reported() -> None:
    assert "busy" not in text(results())
    assert "busy" in text(results(machine={**MACHINE, "noisy": True}))


def test_the_json_always_has_its_promised_keys() -> None:
    found = json.loads(document(results(sqlite={"lone_p50_ms": 1.23456, "unstored": 0})))
    assert found["sqlite"] == {
        "share_of_bare": None,
        "times_naive": None,
        "p99_ms_at_1000": None,
        "lone_p50_ms": 1.2346,
        "unstored": 0,
    }
    assert found["postgres"] is None


def test_nan_is_null_in_the_json() -> None:
    assert json.loads(document(results(sqlite={"lone_p50_ms": math.nan})))["sqlite"]["lone_p50_ms"] is None


def test_numbers_have_their_significant_digits() -> None:
    assert [number(value) for value in (0.256, 4.0, 123.4, 20000.0, math.nan)] == ["0.26", "4", "123", "20,000", "-"]


def test_the_chart_has_a_bar_for_each_server_of_each_database() -> None:
    drawn = ET.fromstring(svg(results(postgres=CLOSED)))  # noqa: S314 - our own XML
    bars = [int(bar.get("width", 0)) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert len(bars) == 8
    assert bars[0] == max(bars)  # bare uvicorn
    assert bars[2] < bars[3]  # naive receiver, Fluxhook


def test_without_the_closed_loop_case_the_chart_is_empty() -> None:
    drawn = ET.fromstring(svg(results(sqlite={"lone_p50_ms": 1.0})))  # noqa: S314 - our own XML
    assert not list(drawn.iter("{http://www.w3.org/2000/svg}rect"))
