"""One process uses a SQLite file; any number uses PostgreSQL."""

from pathlib import Path

import pytest

from app.db.engine.process_lock import process_lock
from app.errors import ConfigurationError


def test_a_second_process_on_a_sqlite_file_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'fluxhook.db'}"
    with process_lock(url), pytest.raises(ConfigurationError, match="SQLite serves one process"), process_lock(url):
        pass
    with process_lock(url):
        pass


def test_processes_on_different_files_do_not_conflict(tmp_path: Path) -> None:
    with process_lock(f"sqlite:///{tmp_path / 'a.db'}"), process_lock(f"sqlite:///{tmp_path / 'b.db'}"):
        pass


def test_on_postgresql_several_processes_are_allowed() -> None:
    url = "postgresql://fluxhook@localhost/fluxhook"
    with process_lock(url), process_lock(url):
        pass


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a file"), process_lock(url):
        pass
