"""`doctor`: what is configured, what is missing, and whether everything around the service answers."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from app import clock, jobs
from app.cli.preflight import is_writable, me
from app.db.engine.database import READ_ONLY, is_read_only, open_database
from app.db.engine.postgres_url import without_secrets
from app.db.migrations.revision import is_current, is_newer
from app.db.queries import webhook_secrets
from app.db.tables import api_keys, attempts, provider_accounts, spooled_results
from app.errors import ConfigurationError, FluxhookError
from app.provider import http as exchange
from app.reconcile import CALLBACKS_MISSING, callbacks_are_missing
from app.security.keyring import KeyRing, sealed_with
from app.settings import PREFIX, Settings, from_environment
from app.wiring import build_provider, database_url, key_ring, open_store, provider_base, store_folder

_LONG_ENOUGH = 16  # characters of an admin key: 64 bits even of hex digits


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `wrong` findings make the exit code 1."""

    name: str
    text: str
    wrong: bool = False
    current: bool = False  # of the database: it can be read


def doctor() -> None:
    """Say what is configured, what is missing and what does not answer; exit code 1 when something is wrong."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        settings = from_environment()
    except ConfigurationError as error:
        console.print(f"[red]wrong[/]  settings: {escape(error.detail)}")
        raise typer.Exit(1) from None
    for name, value in describe(settings).items():
        console.print(f"[dim]set[/]    {PREFIX}{name}: {escape(value)}")
    findings = asyncio.run(_examine(settings))
    for each in findings:
        mark = "[red]wrong[/]" if each.wrong else "[green]ok[/]   "
        console.print(f"{mark}  {each.name}: {escape(each.text)}")
    raise typer.Exit(1 if any(each.wrong for each in findings) else 0)


def describe(settings: Settings) -> dict[str, str]:
    """Every setting by name, secrets hidden."""
    shown = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr) or (name == "secret_keys" and value):
            text = "set, not shown"
        elif name == "database_url" and value:
            text = without_secrets(value) or "set, not shown"
        else:
            text = "not set" if value in {None, ()} else str(value)
        shown[name.upper()] = text
    return shown


async def _examine(settings: Settings) -> list[Finding]:
    return [finding async for finding in _findings(settings)]


async def _findings(settings: Settings) -> AsyncGenerator[Finding]:
    folder = settings.data_dir.absolute()
    while not os.access(folder, os.F_OK):
        folder = folder.parent
    if not is_writable(folder):
        yield Finding("data folder", f"{folder} cannot be written by {me()}", wrong=True)
    database = await _database(settings)
    yield database
    if database.current:
        for finding in await _work(settings):
            yield finding
    if settings.admin_key is not None and len(settings.admin_key.get_secret_value()) < _LONG_ENOUGH:
        text = f"it has fewer than {_LONG_ENOUGH} characters and may be guessed; make one with `openssl rand -hex 24`"
        yield Finding("admin key", text, wrong=True)
    yield await _store(settings)
    yield await _provider(settings)
    yield await _public_address(settings)


async def _database(settings: Settings) -> Finding:
    name = "database"
    url = database_url(settings)
    if settings.embedded and not _exists(url):
        return Finding(name, "not there yet; `fluxhook serve` makes it")
    try:
        async with open_database(url) as database:
            current, newer, read_only = await database.read(
                lambda connection: (is_current(connection), is_newer(connection), is_read_only(connection))
            )
    except FluxhookError as error:
        why = f": {error.__cause__}" if isinstance(error.__cause__, OSError) else ""  # an address, or what TLS lacks
        return Finding(name, f"{error.detail}{why}", wrong=True)
    if read_only:
        return Finding(name, READ_ONLY, wrong=True, current=current)
    if not current:
        return Finding(name, "it answers, its schema is not this version's yet; `fluxhook serve` mends that")
    whose = "that of a newer version, which this one can work with" if newer else "this version's"
    return Finding(name, f"it answers, its schema is {whose}", current=True)


async def _work(settings: Settings) -> list[Finding]:
    """What the records of past work tell about the surroundings."""
    now = clock.utc_now()
    async with open_database(database_url(settings)) as database:
        silent = settings.public_url is not None and await database.read(callbacks_are_missing)
        paused = await database.read(lambda connection: provider_accounts.paused(connection, now))
        held = await database.read(jobs.count_dead_letters)
        spool = await database.read(spooled_results.spool_holders)
        under_way = Counter(await database.read(attempts.under_way_by_signing_key))
        askers = await database.read(api_keys.every)
        of_tasks = Counter(map(sealed_with, await database.read(webhook_secrets.of_tasks)))
    of_keys = Counter(sealed_with(key.webhook_secret) for key in askers if key.webhook_secret and not key.disabled_at)
    findings = [Finding("callbacks", CALLBACKS_MISSING, wrong=True)] if silent else []
    findings += [Finding("account", f"paused until {each.paused_until_at}: {each.pause_reason}") for each in paused]
    if held:
        findings.append(Finding("jobs", f"{held} were set aside after their last try: see `fluxhook jobs`", wrong=True))
    findings += [Finding("kept aside", _told(each), wrong=True) for each in spool]
    if under_way or of_keys or of_tasks or len(settings.secret_keys) > 1:
        findings.append(_secret_keys(key_ring(settings), under_way, of_keys, of_tasks))
    return findings


def _secret_keys(ring: KeyRing, *needs: Counter[str]) -> Finding:
    """What needs each key of the ring, and what needs one that is gone."""

    def needed(names: Iterable[str]) -> str:
        at_provider, of_keys, of_tasks = (sum(each[name] for name in names) for each in needs)
        secrets = f"{_counted(of_keys, 'webhook secret')} of API keys and {of_tasks} of tasks"
        return f"{_counted(at_provider, 'task')} at the provider, {secrets}"

    gone = {name for each in needs for name in each} - set(ring)
    if gone:
        text = f"a key was removed from the ring that is needed by {needed(gone)}"
        return Finding("secret keys", f"{text}: their callbacks are refused, their webhooks not sent", wrong=True)
    by_key = (f"key {number} is needed by {needed([name])}" for number, name in enumerate(ring, 1))
    return Finding("secret keys", "; ".join(by_key))


def _told(each: spooled_results.SpoolHolder) -> str:
    images = _counted(each.images, "image")
    return (
        f"{images} since {each.since}, until the store takes them, on the machine whose instance_id is {each.instance}"
    )


def _counted(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"


def _exists(sqlite_url: str) -> bool:
    return os.access(sqlite_url.removeprefix("sqlite:///"), os.F_OK)


async def _store(settings: Settings) -> Finding:
    try:
        folder = store_folder(settings)
        if folder is not None and not os.access(folder, os.F_OK):
            return Finding("store", f"{folder} is not there yet; `fluxhook serve` makes it")
        await open_store(settings).check()
    except FluxhookError as error:
        return Finding("store", error.detail, wrong=True)
    return Finding("store", f"{folder or settings.store_url} can be written")


async def _provider(settings: Settings) -> Finding:
    base = provider_base(settings)
    async with exchange.client() as http:
        provider = build_provider(settings, http)
        if provider is None:
            missing = f"{PREFIX}{settings.provider.upper()}_API_KEY is not set: no task can be submitted"
            return Finding("provider", missing, wrong=True)
        trouble = await provider.reachable()
    if trouble is not None:
        return Finding("provider", f"{base}: {trouble}", wrong=True)
    return Finding("provider", f"{base} answers and takes the key")


async def _public_address(settings: Settings) -> Finding:
    name = "public address"
    if settings.public_url is None:
        return Finding(name, "not set: no callbacks, results are polled")
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            answer = await http.get(f"{settings.public_url}/healthz")
            ours = answer.json() == {"status": "ok"}
    except (httpx.HTTPError, ValueError) as error:
        text = f"{settings.public_url}/healthz does not answer from here: {type(error).__name__}"
        return Finding(name, f"{text}. Is the service running, and the proxy in front of it?", wrong=True)
    if not ours:
        text = f"{settings.public_url}/healthz answers with HTTP {answer.status_code}, but it is not Fluxhook"
        return Finding(name, text, wrong=True)
    return Finding(name, f"{settings.public_url} leads to Fluxhook")
