"""Where databases are put that are to be measured."""

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from benchmarks.databases import file_system, folder, postgres


def test_the_kernels_own_files_lie_on_a_file_system_of_their_own() -> None:
    assert file_system(Path("/proc/self")) == "proc"


def test_a_folder_is_gone_after_its_block() -> None:
    with folder() as made:
        (made / "file").touch()
    assert not made.exists()


def test_a_server_that_does_not_answer_is_named_before_anything_is_measured() -> None:
    with (
        pytest.raises(ConfigurationError, match="--postgres"),
        postgres("postgresql://nobody@/nothing?host=/nowhere"),
    ):
        pass
