"""The measurement of retention, on a small database."""

from pathlib import Path

import pytest

from benchmarks import retention


async def test_each_class_of_data_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await retention.run(f"sqlite:///{tmp_path / 'grown.db'}", tmp_path, 1000)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]

    assert [line.split()[0] for line in lines] == ["sweep,", "images", "inputs", "evidence", "tasks"]
    assert [line.rpartition("; ")[2] for line in lines][4] == "500 deleted"
