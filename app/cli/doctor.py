"""`doctor`: reports the configuration, missing parts, and whether everything that the service depends on answers."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from http import HTTPStatus
from typing import Annotated

import httpx
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from app import clock, ids, jobs
from app.cli import doctor_models
from app.cli.finding import Finding
from app.cli.preflight import current_user, is_writable
from app.db.engine.database import READ_ONLY, as_postgres, is_read_only
from app.db.engine.postgres_url import without_secrets
from app.db.engine.server_clock import follow_once
from app.db.migrations.revision import is_current, is_newer
from app.db.queries import webhook_secrets
from app.db.tables import api_keys, attempts
from app.errors import ConfigurationError, FluxhookError
from app.security import http_clients
from app.security.keyring import KeyRing, sealing_key_id
from app.security.outbound import Outbound
from app.settings import PREFIX, Settings, from_environment
from app.web.routes.health import IDENTITY
from app.wiring import (
    build_outbound,
    build_provider,
    database_url,
    disk_reserve,
    key_ring,
    load_catalog,
    open_configured_database,
    open_store,
    provider_base,
    store_folder,
)
from app.worker import readiness_notes

_MIN_ADMIN_KEY = 16  # characters: 64 bits even if they are hex digits
_SET, _DEFAULT, _UNSET = "[dim]set[/]      ", "[dim]default[/]  ", "[dim]unset[/]    "
_OK, _UNHEALTHY = "[green]ok[/]       ", "[red]unhealthy[/]"


Models = Annotated[
    bool,
    typer.Option(
        "--models",
        help="Also send an empty request for each model to the provider: it is refused as invalid, and not charged.",
    ),
]


def doctor(*, models: Models = False) -> None:
    """Check the configuration and what the service depends on. The exit code is 1 if a finding is unhealthy."""
    console = Console(soft_wrap=True, highlight=False)
    try:
        settings = from_environment()
    except ConfigurationError as error:
        console.print(f"{_UNHEALTHY}  settings: {escape(error.detail)}")
        raise typer.Exit(1) from None
    source = f"{PREFIX} variables of this environment, {len(settings.model_fields_set)} set"
    console.print(f"Settings from the {source}. A service that was started elsewhere may have others.")
    for name, value in describe(settings).items():
        if value is None:
            console.print(f"{_UNSET}  {PREFIX}{name}")
        else:
            mark = _SET if name.lower() in settings.model_fields_set else _DEFAULT
            console.print(f"{mark}  {PREFIX}{name}: {escape(value)}")
    findings = asyncio.run(_examine(settings, with_models=models))
    for finding in findings:
        mark = _UNHEALTHY if finding.unhealthy else _OK
        console.print(f"{mark}  {finding.name}: {escape(finding.text)}")
    raise typer.Exit(1 if any(finding.unhealthy for finding in findings) else 0)


def describe(settings: Settings) -> dict[str, str | None]:
    """Return every setting by name, as text without secrets; None for a setting without a value."""
    shown: dict[str, str | None] = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        text: str | None
        if isinstance(value, SecretStr) or (name == "secret_keys" and value):
            text = "set, not shown"
        elif name in {"database_url", "database_direct_url"} and value:
            text = without_secrets(value) or "set, not shown"
        else:
            text = None if value in {None, ()} else str(value)
        shown[name.upper()] = text
    return shown


async def _examine(settings: Settings, *, with_models: bool) -> list[Finding]:
    findings = [finding async for finding in _findings(settings)]
    try:
        catalog = load_catalog(settings)
    except ConfigurationError as error:
        return [*findings, Finding("models", error.detail, unhealthy=True)]
    findings.append(doctor_models.served(settings, catalog))
    return findings + (await doctor_models.examine(settings, catalog) if with_models else [])


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
            records = await _records(settings)
        except FluxhookError as error:
            records = [Finding("database", _with_cause(error), unhealthy=True)]
        for finding in records:
            yield finding
    if settings.admin_key is not None and len(settings.admin_key.get_secret_value()) < _MIN_ADMIN_KEY:
        text = f"shorter than {_MIN_ADMIN_KEY} characters, so it may be guessed; create one with `openssl rand -hex 24`"
        yield Finding("admin key", text, unhealthy=True)
    yield await _store(settings)
    try:
        outbound = build_outbound(settings)
    except ConfigurationError as error:
        yield Finding("outgoing requests", error.detail, unhealthy=True)
        return
    yield await _provider(settings, outbound)
    yield await _public_url(settings, outbound)


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


async def _records(settings: Settings) -> list[Finding]:
    """Return what the stored tasks, jobs and keys show about the installation."""
    now = clock.FollowingClock()
    async with open_configured_database(settings) as database:
        await follow_once(database, now)
        notes = await database.read(
            readiness_notes.read, now(), callbacks_expected=settings.public_url is not None, clock_ahead=now.ahead
        )
        dead_letters = await database.read(jobs.count_dead_letters)
        in_flight = Counter(await database.read(attempts.count_in_flight_by_signing_key))
        keys = await database.read(api_keys.list_all)
        of_tasks = Counter(map(sealing_key_id, await database.read(webhook_secrets.of_tasks)))
    of_keys = Counter(sealing_key_id(key.webhook_secret) for key in keys if key.webhook_secret and not key.disabled_at)
    findings = [
        Finding(note.subject, f"{note.text}: {note.details}" if note.details else note.text, unhealthy=note.unhealthy)
        for note in notes
    ]
    if dead_letters:
        text = f"{_counted(dead_letters, 'dead letter')}; `fluxhook jobs` lists them"
        findings.append(Finding("jobs", text, unhealthy=True))
    if in_flight or of_keys or of_tasks or len(settings.secret_keys) > 1:
        findings.append(_secret_keys(key_ring(settings), in_flight, of_keys, of_tasks))
    return findings


def _secret_keys(ring: KeyRing, *uses: Counter[str]) -> Finding:
    """Report the uses of each key of the ring, or of keys that were removed from it.

    `uses` count tasks at the provider, webhook secrets of API keys and those of tasks, each by the ID of the key.
    """

    def needed(names: Iterable[str]) -> str:
        at_provider, of_keys, of_tasks = (sum(counts[name] for name in names) for counts in uses)
        secrets = f"{_counted(of_keys, 'webhook secret')} of API keys and {of_tasks} of tasks"
        return f"{_counted(at_provider, 'task')} at the provider, {secrets}"

    removed = {name for counts in uses for name in counts} - set(ring)
    if removed:
        text = f"a removed key is needed by {needed(removed)}: these callbacks are refused, these webhooks are not sent"
        return Finding("secret keys", text, unhealthy=True)
    by_key = (f"key {number} is needed by {needed([name])}" for number, name in enumerate(ring, 1))
    return Finding("secret keys", "; ".join(by_key))


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


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


async def _provider(settings: Settings, outbound: Outbound) -> Finding:
    base = provider_base(settings)
    async with http_clients.provider_client(outbound=outbound) as http:
        provider = build_provider(settings, http)
        if provider is None:
            missing = f"{PREFIX}{settings.provider.upper()}_API_KEY is not set: no task can be submitted"
            return Finding("provider", missing, unhealthy=True)
        problem = await provider.reachable()
    if problem is not None:
        return Finding("provider", f"{base}: {problem}", unhealthy=True)
    return Finding("provider", f"{base} answers and accepts the API key")


async def _public_url(settings: Settings, outbound: Outbound) -> Finding:
    name = "public URL"
    if settings.public_url is None:
        return Finding(name, "not set: no callbacks arrive, results are polled")
    challenge = ids.new_key()
    try:
        async with http_clients.own_url_client(outbound) as http:
            answer = await http.get(f"{settings.public_url}/healthz", params={"challenge": challenge})
    except httpx.HTTPError as error:
        text = f"{settings.public_url}/healthz cannot be reached from this machine: {type(error).__name__}"
        return Finding(name, f"{text}. Check that the service and its proxy are running", unhealthy=True)
    problem = _not_this_fluxhook(settings, answer, challenge)
    if problem is not None:
        return Finding(name, f"{settings.public_url} does not lead to this Fluxhook: {problem}", unhealthy=True)
    return Finding(name, f"{settings.public_url} leads to Fluxhook")


def _not_this_fluxhook(settings: Settings, answer: httpx.Response, challenge: str) -> str | None:
    """Return why the answer of `/healthz` does not come from this installation; None if it does.

    Another server may answer `/healthz` too, but only an installation with the same secret keys can answer the
    challenge.
    """
    try:
        liveness = answer.json()
    except ValueError:
        liveness = None
    if answer.status_code != HTTPStatus.OK or not isinstance(liveness, dict) or liveness.get("status") != "ok":
        return f"another server answers /healthz there with HTTP {answer.status_code}"
    if "proof" not in liveness:
        return "another server answers /healthz there, or a Fluxhook before version 0.3"
    if not _has_secret_keys(settings):
        return "this installation has no secret keys yet; `fluxhook serve` creates them"
    if not key_ring(settings).proves(challenge.encode(), IDENTITY, str(liveness["proof"])):
        return "the Fluxhook there has other FLUXHOOK_SECRET_KEYS, so it would refuse the callbacks of this one"
    return None


def _has_secret_keys(settings: Settings) -> bool:
    return bool(settings.secret_keys) or os.access(settings.data_dir / "secret_keys", os.F_OK)
