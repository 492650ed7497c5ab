"""Whether everything that the service depends on answers."""

import asyncio
import os
from collections.abc import AsyncGenerator

import httpx

from app.cli.doctor import models, public_url, records
from app.cli.preflight import current_user, is_writable
from app.config_file import AccountSettings
from app.db.engine.database import READ_ONLY, as_postgres, is_read_only
from app.db.migrations.revision import is_current, is_newer
from app.errors import ConfigurationError, FluxhookError
from app.provider.accounts import build_provider
from app.security import http_clients
from app.security.outbound import Outbound
from app.settings import PREFIX, Settings
from app.web.findings import Finding
from app.wiring import (
    build_outbound,
    database_url,
    disk_reserve,
    load_catalog,
    open_configured_database,
    open_store,
    require_models,
    store_folder,
)


async def examine(settings: Settings, *, with_models: bool) -> list[Finding]:
    """Return what was found; `with_models`: also what the provider says about each model."""
    findings = [finding async for finding in _findings(settings)]
    try:
        catalog = load_catalog(settings)
        require_models(settings, catalog)
    except ConfigurationError as error:
        return [*findings, Finding("models", error.detail, unhealthy=True)]
    findings.append(models.served(settings, catalog))
    return findings + (await models.examine(settings, catalog) if with_models else [])


async def _findings(settings: Settings) -> AsyncGenerator[Finding]:
    folder = settings.data_dir.absolute()
    while not os.access(folder, os.F_OK):
        folder = folder.parent
    if not is_writable(folder):
        yield Finding("data folder", f"{folder} cannot be written by {current_user()}", unhealthy=True)
    for volume in disk_reserve(settings).read():
        if volume.note is not None:
            yield Finding("disk", volume.note, unhealthy=volume.is_full)
    database = await _database(settings)
    yield database
    if database.readable:
        try:
            found = await records.read(settings)
        except FluxhookError as error:
            found = [Finding("database", _with_cause(error), unhealthy=True)]
        for finding in found:
            yield finding
    yield await _store(settings)
    for finding in await _outgoing(settings):
        yield finding


async def _outgoing(settings: Settings) -> list[Finding]:
    """Return what the providers and the service's own URL answer."""
    try:
        outbound = build_outbound(settings)
    except ConfigurationError as error:
        return [Finding("outgoing requests", error.detail, unhealthy=True)]
    return [*await _accounts(settings, outbound), await public_url.check(settings, outbound)]


async def _database(settings: Settings) -> Finding:
    name = "database"
    if settings.embedded and not _exists(database_url(settings)):
        return Finding(name, "does not exist yet; `fluxhook serve` creates it")
    try:
        async with open_configured_database(settings) as database:
            current, newer, read_only = await database.read(
                lambda connection: (is_current(connection), is_newer(connection), is_read_only(connection))
            )
            postgres = as_postgres(database)
            if postgres is not None:
                await postgres.check_direct_url()
    except FluxhookError as error:
        return Finding(name, _with_cause(error), unhealthy=True)
    if read_only:
        return Finding(name, READ_ONLY, unhealthy=True, readable=current)
    if not current:
        return Finding(name, "it answers, but its schema is not up to date; `fluxhook serve` updates it")
    schema = "from a newer version, which this version can use" if newer else "up to date"
    pooler = _pooler(settings) if postgres is not None and postgres.is_pooled else ""
    return Finding(name, f"it answers{pooler}, and its schema is {schema}", readable=True)


def _pooler(settings: Settings) -> str:
    through = " through a connection pooler"
    if settings.database_direct_url is not None:
        return through
    return f"{through} (notifications between processes take a second, as {PREFIX}DATABASE_DIRECT_URL is not set)"


def _with_cause(error: FluxhookError) -> str:
    """Return the detail and the words of the server or the system, which name the address, or what TLS lacks."""
    cause = getattr(error.__cause__, "orig", error.__cause__)  # the driver's error
    return error.detail if cause is None else f"{error.detail}: {str(cause).partition(chr(10))[0]}"


def _exists(sqlite_url: str) -> bool:
    return os.access(sqlite_url.removeprefix("sqlite:///"), os.F_OK)


async def _store(settings: Settings) -> Finding:
    try:
        folder = store_folder(settings)
        if folder is not None and not os.access(folder, os.F_OK):
            return Finding("store", f"{folder} does not exist yet; `fluxhook serve` creates it")
        await open_store(settings).check()
    except FluxhookError as error:
        return Finding("store", error.detail, unhealthy=True)
    return Finding("store", f"{folder or settings.store_url} is writable")


async def _accounts(settings: Settings, outbound: Outbound) -> list[Finding]:
    """Return for each account whether its provider answers and accepts the API key."""
    async with http_clients.provider_client(outbound=outbound) as http:
        return list(await asyncio.gather(*(_account(settings, account, http) for account in settings.accounts)))


async def _account(settings: Settings, account: AccountSettings, http: httpx.AsyncClient) -> Finding:
    name = "provider" if settings.environment_alone else f"account {account.name}"
    provider = build_provider(account, http)
    if provider is None:
        missing = f"{PREFIX}{settings.provider.upper()}_API_KEY is not set: no task can be submitted"
        return Finding(name, missing, unhealthy=True)
    problem = await provider.reachable()
    if problem is not None:
        return Finding(name, f"{account.url}: {problem}", unhealthy=True)
    return Finding(name, f"{account.url} answers and accepts the API key")
