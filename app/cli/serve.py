"""`serve` and `migrate`: the service, and the preparation of its start."""

import asyncio
from typing import Annotated

import typer

from app import __version__, clock
from app.cli.preflight import require, require_address, require_data_dir
from app.cli.process import give_back_large_blocks, open_files_allowed, server
from app.db.engine.database import Database
from app.db.engine.process_lock import process_lock
from app.db.migrations.migrate import catch_up
from app.db.tables import api_keys, idempotency_keys, provider_accounts
from app.db.tables.api_keys import NewApiKey
from app.errors import ConfigurationError
from app.main import create_app
from app.security.http_clients import mark_sniffio_absent
from app.settings import Settings, from_environment
from app.telemetry import logs, tracing
from app.web.auth import digest_of
from app.web.limits import Limits
from app.wiring import (
    account_id,
    database_url,
    load_catalog,
    load_or_create_secret,
    open_configured_database,
    open_resources,
    slot_limits,
)

_OTHER_FILES = 256  # the database, the store, uploads, requests to others


def serve(
    *,
    worker: Annotated[bool, typer.Option(help="Run the worker in this process.")] = True,
) -> None:
    """Run the service: the API and, unless --no-worker is given, the worker."""
    settings = from_environment()
    logs.configure()
    give_back_large_blocks()
    require(settings)
    with process_lock(database_url(settings)), tracing.sending():
        require_address(settings)
        generated_key = asyncio.run(prepare(settings))
        announce(settings, f"on http://{settings.host}:{settings.port}", generated_key)
        catalog = load_catalog(settings)
        app = create_app(open_resources(settings, catalog=catalog), catalog, with_worker=worker)
        running = server(app, settings.host, settings.port, limits(settings))
        running.owns_process = True
        running.run()


def migrate() -> None:
    """Update the database schema to this version."""
    settings = from_environment()
    logs.configure()
    require_data_dir(settings)
    asyncio.run(_migrate(settings))
    typer.echo("The database is up to date.")


async def prepare(settings: Settings) -> str | None:
    """Prepare the database for a start. Return the admin key if it has just been generated, else None."""
    mark_sniffio_absent()
    key, generated = _admin_key(settings)
    async with open_configured_database(settings) as database:
        await catch_up(database)
        if settings.embedded:
            # The process that would have answered these has ended: a repeated request must not wait for it.
            await database.write(idempotency_keys.remove_unanswered)
        await _put_admin_key(database, key)
        await _put_account(database, settings)
    return key if generated else None


def limits(settings: Settings) -> Limits:
    """Return the limits of connections. Each takes a file, and other files are needed too."""
    files = open_files_allowed()
    most = settings.max_connections if files is None else min(settings.max_connections, max(1, files - _OTHER_FILES))
    return Limits(
        connections=most,
        head_bytes=settings.max_head_kb * 1024,
        headers=settings.max_headers,
        head_s=settings.head_seconds,
        stall_s=settings.stall_seconds,
        bytes_per_s=settings.min_body_rate_kb * 1024,
        idle_s=settings.idle_seconds,
    )


def announce(settings: Settings, activity: str, generated_key: str | None) -> None:
    """Print the version and the activity, a newly generated API key, and a note if the provider key is missing."""
    typer.echo(f"Fluxhook {__version__} {activity}")
    if generated_key is not None:
        typer.echo(f"API key, shown once and saved in {settings.data_dir / 'admin_key'}: {generated_key}")
    if settings.provider_key is None:
        name = f"FLUXHOOK_{settings.provider.upper()}_API_KEY"
        typer.echo(f"No provider key: tasks are refused until {name} is set. `fluxhook demo` needs no key.", err=True)


async def _migrate(settings: Settings) -> None:
    async with open_configured_database(settings) as database:
        await catch_up(database)


def _admin_key(settings: Settings) -> tuple[str, bool]:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value(), False
    if not settings.embedded:
        raise ConfigurationError("FLUXHOOK_ADMIN_KEY: required on PostgreSQL, where replicas share no folder")
    return load_or_create_secret(settings.data_dir / "admin_key")


async def _put_account(database: Database, settings: Settings) -> None:
    limits = slot_limits(settings, load_catalog(settings))
    await database.write(provider_accounts.put, account_id(settings), settings.provider, limits)


async def _put_admin_key(database: Database, key: str) -> None:
    admin = NewApiKey(api_keys.ADMIN_ID, "admin", digest_of(key), ["*"], clock.utc_now())
    await database.write(api_keys.put, admin)
