"""`serve` and `migrate`: the service, and the preparation of its start."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

import typer

from app import __version__, clock
from app.cli.api import local_url
from app.cli.doctor.checks import examine
from app.cli.next_command import next_command
from app.cli.preflight import require, require_address, require_data_dir
from app.cli.process import give_back_large_blocks, open_files_allowed, server, switch_threads_often
from app.db import Connection
from app.db.engine.database import Database
from app.db.engine.process_lock import process_lock
from app.db.engine.server_clock import follow_once
from app.db.migrations.migrate import catch_up
from app.db.tables import api_keys, idempotency_keys, provider_accounts
from app.db.tables.api_keys import NewApiKey
from app.db.tables.provider_accounts import ConfiguredAccount
from app.errors import ConfigurationError
from app.main import create_app
from app.security.http_clients import mark_sniffio_absent
from app.settings import Settings, from_environment
from app.telemetry import logs, tracing
from app.transitions import audit
from app.transitions.admit import admit
from app.transitions.audit import SERVICE, Action
from app.web.auth import digest_of
from app.web.limits import Limits
from app.wiring import (
    configured_accounts,
    database_url,
    load_catalog,
    load_or_create_secret,
    open_configured_database,
    open_resources,
    require_models,
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
    switch_threads_often()
    require(settings)
    catalog = load_catalog(settings)
    require_models(settings, catalog)  # refused here: an error while the application starts is a traceback
    with process_lock(database_url(settings)), tracing.sending():
        require_address(settings)
        generated_key = asyncio.run(prepare(settings))
        announce(settings, f"on http://{settings.host}:{settings.port}", generated_key)
        app = create_app(
            open_resources(settings, catalog=catalog),
            catalog,
            with_worker=worker,
            examine=partial(examine, settings, with_models=False),
        )
        running = server(app, settings.host, settings.port, limits(settings), settings.trusted_proxies)
        running.owns_process = True
        running.run()


def migrate() -> None:
    """Update the database schema to this version."""
    settings = from_environment()
    logs.configure()
    require_data_dir(settings)
    asyncio.run(_migrate(settings))
    typer.echo("The database is up to date.")


async def prepare(settings: Settings, now: clock.Now = clock.utc_now) -> str | None:
    """Prepare the database for a start. Return the admin key if it has just been generated, else None.

    `now`: the clock of this machine. On PostgreSQL the server's is used, as later by the service.
    """
    mark_sniffio_absent()
    key, generated = _admin_key(settings)
    async with open_configured_database(settings) as database:
        await catch_up(database)
        if settings.embedded:
            # The process that would have answered these has ended: a repeated request must not wait for it.
            await database.write(idempotency_keys.remove_unanswered)
        shared_clock = clock.FollowingClock(now)
        await follow_once(database, shared_clock)
        await _put_admin_key(database, key, shared_clock())
        await _put_accounts(database, settings, shared_clock())
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
    """Print the version and the activity, a newly generated API key, and what to do next.

    Without a provider key, that is to set one.
    """
    typer.echo(f"Fluxhook {__version__} {activity}")
    if generated_key is not None:
        typer.echo(f"API key, shown once and saved in {settings.data_dir / 'admin_key'}: {generated_key}")
    has_provider = any(account.key is not None for account in settings.accounts)
    if generated_key is not None and has_provider:
        command = next_command(settings, 'submit "a red fox" --out fox.png')
        typer.echo(f"Open {local_url(settings)}/ and sign in with it, or run in another terminal: {command}")
    if not has_provider:
        name = f"FLUXHOOK_{settings.provider.upper()}_API_KEY"
        typer.echo(f"No provider key: tasks are refused until {name} is set. `fluxhook demo` needs no key.", err=True)


async def _migrate(settings: Settings) -> None:
    async with open_configured_database(settings) as database:
        await catch_up(database)


def _admin_key(settings: Settings) -> tuple[str, bool]:
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value(), False
    if not settings.embedded:
        raise ConfigurationError(
            "FLUXHOOK_ADMIN_KEY: required on PostgreSQL, where replicas share no folder; set the same key on all of "
            "them, such as one that `openssl rand -hex 24` creates"
        )
    return load_or_create_secret(settings.data_dir / "admin_key")


async def _put_accounts(database: Database, settings: Settings, now: datetime) -> None:
    accounts = configured_accounts(settings, load_catalog(settings))
    await database.write(_configure, accounts, now)


def _configure(connection: Connection, accounts: Sequence[ConfiguredAccount], now: datetime) -> None:
    """Record the accounts, and give the slots of new ones to tasks that wait."""
    provider_accounts.configure(connection, accounts)
    admit(connection, now)


async def _put_admin_key(database: Database, key: str, now: datetime) -> None:
    admin = NewApiKey(api_keys.ADMIN_ID, "admin", digest_of(key), ["*"], now)
    await database.write(_put_key, admin)


def _put_key(connection: Connection, admin: NewApiKey) -> None:
    before = api_keys.get(connection, admin.id)
    api_keys.put(connection, admin)
    if before is None or before.sha256 != admin.sha256:
        action = Action.KEY_CREATED if before is None else Action.KEY_CHANGED
        audit.record(connection, SERVICE, action, admin.id, admin.created_at, {"changed": "key"})
