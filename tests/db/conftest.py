from collections.abc import AsyncGenerator

import pytest

from app.db.engine.database import Database, open_database


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncGenerator[Database]:
    async with open_database(sqlite_url) as opened:
        yield opened


@pytest.fixture
async def postgresql(postgres_url: str) -> AsyncGenerator[Database]:
    async with open_database(postgres_url) as opened:
        yield opened
