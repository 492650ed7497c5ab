"""The files that the load generator shares with its caller."""

from pathlib import Path

from benchmarks.plan import Plan, read_plan, read_requests, write_plan, write_requests


def test_a_plan_survives_a_round_trip_through_its_file(tmp_path: Path) -> None:
    plan = Plan(port=1, requests="r", outcomes="o", seconds=1.5, rate=100.0, fresh=True)
    write_plan(tmp_path / "plan", plan)
    assert read_plan(tmp_path / "plan") == plan


def test_requests_of_any_bytes_stay_separate(tmp_path: Path) -> None:
    requests = [b"", b"\r\n\r\n", bytes(range(256)) * 300, b"last"]
    write_requests(tmp_path / "requests", requests)
    assert read_requests(tmp_path / "requests") == requests
