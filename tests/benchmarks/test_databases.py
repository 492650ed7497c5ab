"""The location of measured databases."""

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from benchmarks.databases import file_system, folder, postgres


def test_the_type_of_a_file_system_is_found() -> None:
    assert file_system(Path("/proc/self")) == "proc"


def test_a_folder_is_deleted_after_its_block() -> None:
    with folder() as path:
        (path / "file").touch()
    assert not path.exists()


def test_a_server_that_does_not_answer_is_reported_before_anything_is_measured() -> None:
    with (
        pytest.raises(ConfigurationError, match="--postgres"),
        postgres("postgresql://user@/database?host=/nowhere"),
    ):
        pass
