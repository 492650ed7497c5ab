"""`serve` and `migrate`: the service, and what its start needs."""

import asyncio
import ctypes
import gc
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from app import __version__, clock
from app.cli.preflight import require, require_address, require_data_dir
from app.db.engine.database import Database, open_database
from app.db.engine.process_lock import process_lock
from app.db.migrations.migrate import catch_up
from app.db.tables import api_keys, idempotency_keys, provider_accounts
from app.errors import ConfigurationError
from app.main import create_app
from app.settings import Settings, from_environment
from app.telemetry import logs, tracing
from app.web.auth import digest_of
from app.web.protocol import Protocol, resources_of
from app.wiring import account_id, database_url, kept_secret, open_resources, provider_spec

# What a stopping server gives the requests in hand, before it closes them.
_GRACE_S = 8
_M_MMAP_THRESHOLD = -3  # glibc's name for it, in malloc.h
_LARGE_BYTES = 128 * 1024  # what glibc begins with


def serve(
    *,
    worker: Annotated[bool, typer.Option(help="Do the jobs in this process too.")] = True,
) -> None:
    """Run the service: the API, and the worker inside it."""
    settings = from_environment()
    logs.configure()
    give_back_large_blocks()
    require(settings)
    with process_lock(database_url(settings)), tracing.sending():
        require_address(settings)
        made_key = asyncio.run(prepare(settings))
        announce(settings, f"on http://{settings.host}:{settings.port}", made_key)
        app = create_app(open_resources(settings), with_worker=worker)
        server(app, settings.host, settings.port).run()


def migrate() -> None:
    """Bring the database to the schema of this version."""
    settings = from_environment()
    require_data_dir(settings)
    asyncio.run(_migrate(settings))
    typer.echo("The database is up to date.")


async def prepare(settings: Settings) -> str | None:
    """Make ready what a start needs; return the admin key if it was made just now."""
    key, made = _admin_key(settings)
    async with open_database(database_url(settings)) as database:
        await catch_up(database)
        if settings.embedded:
            # The process that was answering these is gone: whoever sends one again must not be told to wait for it.
            await database.write(idempotency_keys.forget_unanswered)
        await _put_admin_key(database, key)
        await _put_account(database, settings)
    return key if made else None


def announce(settings: Settings, what: str, made_key: str | None) -> None:
    """Tell the terminal what runs now, the key that was made for it, and what it lacks."""
    typer.echo(f"Fluxhook {__version__} {what}")
    if made_key is not None:
        typer.echo(f"API key, shown this once and kept in {settings.data_dir / 'admin_key'}: {made_key}")
    if settings.provider_key is None:
        name = f"FLUXHOOK_{settings.provider.upper()}_API_KEY"
        typer.echo(f"No provider key: tasks are refused until {name} is set. `fluxhook demo` needs none.", err=True)


class Server(uvicorn.Server):
    """uvicorn's, which ends a stop that was asked for with exit code 0 instead of by the signal itself."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settle_down()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Tell the worker and the requests that wait for a task at once, not when the last connection is closed."""
        super().handle_exit(sig, frame)
        use = resources_of(self.config.app)
        if use is not None:
            asyncio.get_running_loop().call_soon_threadsafe(use.stopping.set)


def settle_down() -> None:
    """Once all is up: what has been made by now lives as long as the process, and the collector need not look at it.

    A full collection stops every thread for 100 ms and more with it, and for a few without.
    """
    gc.collect()
    gc.freeze()


def give_back_large_blocks() -> None:
    """Have memory for large things, as a decoded image, go back to the system when it is freed.

    By itself glibc calls more and more small once such a block was freed, and keeps it in a heap of each thread's own.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def server(app: object, host: str, port: int) -> uvicorn.Server:
    """A uvicorn server without its own logs and without WebSockets: both write down addresses that hold tokens."""
    return Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            http=Protocol,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


async def _migrate(settings: Settings) -> None:
    async with open_database(database_url(settings)) as database:
        await catch_up(database)


def _admin_key(settings: Settings) -> tuple[str, bool]:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value(), False
    if not settings.embedded:
        raise ConfigurationError("FLUXHOOK_ADMIN_KEY: needed on PostgreSQL, where replicas share no folder")
    return kept_secret(settings.data_dir / "admin_key")


async def _put_account(database: Database, settings: Settings) -> None:
    limits = provider_spec(settings).slots
    await database.write(
        lambda connection: provider_accounts.put(connection, account_id(settings), settings.provider, limits)
    )


async def _put_admin_key(database: Database, key: str) -> None:
    now = clock.utc_now()
    await database.write(
        lambda connection: api_keys.put(
            connection,
            id=api_keys.ADMIN_ID,
            name="admin",
            sha256=digest_of(key),
            scopes=["*"],
            created_at=now,
        )
    )
