"""Very short runs of the benchmark with real processes and sockets, without assertions on speed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.proof

PROMISED = {"share_of_bare", "times_naive", "p99_ms_at_1000", "lone_p50_ms", "unstored"}
_MAX_S = 900  # a run takes half a minute, on a busy machine far longer


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own module
        try:
            output, errors = process.communicate(timeout=_MAX_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # so that it ends its child processes
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def figures(path: Path, database: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())[database]
    return found


@pytest.mark.usefixtures("postgres")  # skips where no server can be started
def test_a_quick_run_with_a_kill_measures_both_databases_and_stores_every_callback(tmp_path: Path) -> None:
    out, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    done = bench("--quick", "--crash", "1", "--seconds", "0.3", "--json", str(out), "--svg", str(picture))

    assert done.returncode == 0, done.stderr
    for database in ("sqlite", "postgres"):
        found = figures(out, database)
        assert found.keys() >= PROMISED
        assert None not in found.values()
        assert found["acknowledged"] > 0
        assert found["unstored"] == 0
        assert found["kills"] == 1
        assert found["crash_acknowledged"] > 0
        assert found["crash_unstored"] == 0
    assert "<svg" in picture.read_text()


@pytest.mark.parametrize(
    "wrong",
    [["--only", "nothing"], ["--json", "/nowhere/at/all.json"], ["--postgres", "postgresql://u@/d?host=/nowhere"]],
)
def test_an_invalid_option_is_refused_in_one_line(wrong: list[str]) -> None:
    done = bench(*wrong)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert wrong[0] in done.stderr
