"""Fixtures that every test may ask for: a migrated database of its own on each engine, and a world on it."""

import asyncio
import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
import structlog
from sqlalchemy import create_engine
from structlog.stdlib import ProcessorFormatter

from app.db.engine.database import Database, open_database
from app.db.migrations import migrate
from tests import profiles, shared_dialects, shared_trust, tiers
from tests.pgbouncer import pgbouncer
from tests.postgres import Postgres, start_postgres
from tests.world import World, open_world

profiles.install()
shared_dialects.install()
shared_trust.install()

_REQUIRED = os.environ.get("TESTS_REQUIRE", "").split(",")


_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
_ROOM = 4 * 1024**3  # bytes that must be free: two runs at once leave room to spare


def skip_or_fail(what: str, reason: str) -> None:
    """Skip where something is not there; fail where CI says that it must be."""
    if what in _REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def log_of_its_own() -> Generator[None]:
    """A log that a test sets up, by starting a command say, ends with that test, and so do its permissions."""
    hooks = warnings.showwarning, sys.unraisablehook
    mask = os.umask(0o077)
    os.umask(mask)
    yield
    os.umask(mask)
    if structlog.is_configured():
        structlog.reset_defaults()
        root = logging.getLogger()
        root.handlers = [each for each in root.handlers if not isinstance(each.formatter, ProcessorFormatter)]
        root.setLevel(logging.WARNING)
        warnings.showwarning, sys.unraisablehook = hooks


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        migrate.upgrade(connection)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def postgres() -> Generator[Postgres]:
    """A PostgreSQL server."""
    with start_postgres() as server:
        if isinstance(server, str):
            skip_or_fail("postgres", server)
        assert isinstance(server, Postgres)
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """The name of a migrated, empty database on it."""

    async def make() -> None:
        async with open_database(await postgres.create("template_fluxhook")) as database:
            await database.write(migrate.upgrade)

    # Not an async fixture: one that lasts for the session would give all tests its event loop.
    asyncio.run(make())
    return "template_fluxhook"


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test's own."""
    path = tmp_path / "fluxhook.db"
    with sqlite3.connect(sqlite_template) as template, sqlite3.connect(path) as copy:
        template.backup(copy)
    template.close()
    copy.close()
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def postgres_database(postgres: Postgres, postgres_template: str) -> str:
    """The name of the migrated database that the tests use one after the other: to make one takes long."""
    name = f"test_{uuid4().hex}"
    asyncio.run(postgres.create(name, postgres_template))
    asyncio.run(postgres.use_clock(name))
    return name


@pytest.fixture
async def postgres_url(postgres: Postgres, postgres_database: str) -> AsyncGenerator[str]:
    """A migrated PostgreSQL database with nothing in it."""
    yield postgres.address(postgres_database)
    await postgres.empty(postgres_database)


@pytest.fixture
async def pooled(postgres: Postgres) -> AsyncGenerator[Postgres]:
    """The PostgreSQL server behind PgBouncer in transaction mode."""
    async with pgbouncer(postgres) as server:
        if isinstance(server, str):
            skip_or_fail("pgbouncer", server)
        assert isinstance(server, Postgres)
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of this test's own: the test runs once on each engine."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    """The same, opened."""
    async with open_database(database_url) as opened:
        yield opened


@pytest.fixture
async def world(tmp_path: Path, sqlite_url: str) -> AsyncGenerator[World]:
    """A world on SQLite, for what does not touch the database's differences."""
    async with open_world(tmp_path, sqlite_url) as opened:
        yield opened


@pytest.fixture
async def each_world(tmp_path: Path, database_url: str) -> AsyncGenerator[World]:
    """A world on each database engine in turn."""
    async with open_world(tmp_path, database_url) as opened:
        yield opened


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    tiers.assign(items)  # before `-m` chooses by mark
    yield
    if config.option.one_case:
        kept = tiers.one_case_of_each(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if tiers.is_left_out(collection_path, config.option.markexpr) else None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files in memory where there is room: what syncs to disk is not what most tests are about."""
    is_worker = hasattr(config, "workerinput")
    if not is_worker and config.option.basetemp is None and _has_room(_MEMORY):
        config.option.basetemp = tempfile.mkdtemp(prefix="fluxhook-tests-", dir=_MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="rewrite the generated parts of the documents")
    parser.addoption("--one-case", action="store_true", help="run each test with one of its parameters only")
    parser.addoption("--examples", type=int, default=10, help="how many requests of each operation the proof sends")
