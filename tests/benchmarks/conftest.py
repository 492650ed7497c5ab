"""The setting of a case of the benchmark without the servers that the service is compared with."""

from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import pytest

from app import ids
from benchmarks.drive import Drive
from benchmarks.ours import Ours
from benchmarks.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """The parts of a stage that a case uses that starts its own services, on SQLite."""
    numbers = count(1)

    @contextmanager
    def another() -> Generator[str]:
        yield f"sqlite:///{tmp_path}/{next(numbers)}.db"

    unused = cast("Any", None)
    return Stage(
        ours=Ours("idle", tmp_path, "", ids.new_key()),
        bare=unused,
        hmac=unused,
        naive=unused,
        drive=Drive(tmp_path, connections=4),
        reference_requests=[],
        another=another,
        seconds=0.3,
        rounds=1,
    )
