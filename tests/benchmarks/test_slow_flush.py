"""Slow flushes, if there is a compiler."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.slow_flush import LeftOut, library

_FLUSHES = "import os; handle = os.open('file', os.O_CREAT | os.O_WRONLY); [os.fdatasync(handle) for _ in range(20)]"


@pytest.mark.proof
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_each_flush_is_delayed(tmp_path: Path) -> None:
    env = {"LD_PRELOAD": str(library(tmp_path, 20))}
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", _FLUSHES], env=env, cwd=tmp_path, check=True)  # noqa: S603 - our own script
    assert time.monotonic() - began > 0.4


def test_a_missing_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LeftOut, match="no C compiler"):
        library(tmp_path, 2)
