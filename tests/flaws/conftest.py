"""Worlds for the tests of flaws."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from app.twin import Rules
from tests.flaws.deliveries import Worlds
from tests.world import World, open_world


@pytest.fixture
def worlds(tmp_path: Path, sqlite_template: Path) -> Worlds:
    """Open new worlds, each on its own database: one for the real code, one for the flaw."""
    numbers = count()

    @asynccontextmanager
    async def fresh(rules: Rules | None = None) -> AsyncGenerator[World]:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        path = folder / "fluxhook.db"
        shutil.copyfile(sqlite_template, path)
        async with open_world(folder, f"sqlite:///{path}", rules=rules) as world:
            yield world

    return fresh
