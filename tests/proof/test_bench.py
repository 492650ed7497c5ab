"""A very short run of the bench, for real: real processes, real sockets, no assertion on speed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.proof

PROMISED = {"share_of_bare", "times_naive", "p99_ms_at_1000", "lone_p50_ms", "unstored"}
_MOST_S = 240  # half a minute; a busy machine takes its time


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    asked = [sys.executable, "-m", "benchmarks", *arguments]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - ourselves
        try:
            said, complaint = process.communicate(timeout=_MOST_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # so that it ends what it started
            raise
    return subprocess.CompletedProcess(asked, process.returncode, said, complaint)


def figures(path: Path, database: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())[database]
    return found


@pytest.mark.usefixtures("postgres")  # skips where no server can be started
def test_a_quick_run_measures_both_databases_and_misses_nothing(tmp_path: Path) -> None:
    out, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    done = bench("--quick", "--seconds", "0.3", "--json", str(out), "--svg", str(picture))

    assert done.returncode == 0, done.stderr
    for database in ("sqlite", "postgres"):
        found = figures(out, database)
        assert found.keys() >= PROMISED
        assert None not in found.values()
        assert found["acknowledged"] > 0
        assert found["unstored"] == 0
    assert "<svg" in picture.read_text()


def test_nothing_acknowledged_is_missing_after_kills_under_load(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = bench("--only", "lone", "--crash", "2", "--seconds", "0.3", "--json", str(out))

    assert done.returncode == 0, done.stderr
    found = figures(out, "sqlite")
    assert found["kills"] == 2
    assert found["crash_acknowledged"] > 0
    assert found["crash_unstored"] == 0


@pytest.mark.parametrize(
    "wrong",
    [["--only", "nothing"], ["--json", "/nowhere/at/all.json"], ["--postgres", "postgresql://u@/d?host=/nowhere"]],
)
def test_what_cannot_be_is_refused_in_one_line(wrong: list[str]) -> None:
    done = bench(*wrong)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert wrong[0] in done.stderr
