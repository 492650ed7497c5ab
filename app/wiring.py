"""Build what the steps are handed from the settings: connections, policy and limits of this process."""

import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from app import __version__, callback, clock, ids
from app.catalog import Catalog, open_catalog
from app.db.engine.database import Database, open_database
from app.db.engine.server_clock import following
from app.db.engine.sqlite import file_of
from app.db.engine.timeouts import Timeouts
from app.db.tables.provider_accounts import ConfiguredAccount
from app.errors import ConfigurationError
from app.provider import Accounts, open_accounts
from app.provider.accounts import provider_spec, slot_limits
from app.resources import OpenAiPolicy, Resources
from app.rules.budget import Budget
from app.rules.limits import NAMES, Limits
from app.rules.retention import Retention, period
from app.security.http_clients import guarded_client, provider_client, results_client
from app.security.keyring import KeyRing
from app.security.outbound import Outbound, open_outbound
from app.settings import Settings
from app.store import BUCKETS, DiskReserve, FolderStore, Presigner, Store, Uploads


@asynccontextmanager
async def open_resources(
    settings: Settings, now: clock.Now = clock.utc_now, catalog: Catalog | None = None
) -> AsyncGenerator[Resources]:
    """Connect to everything that the settings name; close the connections at the end.

    `now`: the clock of this machine. On PostgreSQL it is corrected to the server's. `catalog`: the models, if they are
    loaded already.
    """
    catalog = catalog or load_catalog(settings)
    require_models(settings, catalog)
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_configured_database(settings))
        shared_clock = clock.FollowingClock(now)
        await stack.enter_async_context(following(db, shared_clock))
        outbound = build_outbound(settings)
        http = await stack.enter_async_context(provider_client(outbound=outbound))
        accounts = open_accounts(settings.accounts, catalog, http)
        disk = disk_reserve(settings)
        store = open_store(settings)
        yield Resources(
            db=db,
            callbacks=db.batcher(partial(callback.store_batch, link_lives=catalog.link_lives)),
            store=store,
            presigner=store if settings.links == "presigned" and isinstance(store, Presigner) else None,
            catalog=catalog,
            keys=key_ring(settings),
            now=shared_clock,
            accounts=accounts,
            web=await stack.enter_async_context(guarded_client(settings.egress_allow, outbound=outbound)),
            webhooks=await stack.enter_async_context(
                guarded_client(settings.egress_allow, plain_http=False, outbound=outbound)
            ),
            results=await stack.enter_async_context(
                results_client(
                    allowed=settings.egress_allow,
                    origins=accounts.origins,
                    usual_hosts=(*accounts.result_hosts, *settings.result_hosts),
                    outbound=outbound,
                )
            ),
            result_hosts=result_hosts(settings, accounts),
            public_url=settings.public_url,
            trust_shared_secret=settings.shared_secret_callbacks == "accept",  # noqa: S105
            evidence_window=None if settings.hold_seconds is None else timedelta(seconds=settings.hold_seconds),
            send_webhook_secret=settings.send_webhook_secret,
            scratch=settings.data_dir,
            uploads=uploads(settings, disk),
            disk=disk,
            egress_allow=settings.egress_allow,
            user_agent=user_agent(settings),
            retention=retention(settings),
            budget=service_budget(settings),
            limits=application_limits(settings),
            unpriced_credits=settings.unpriced_credits,
            link_life=timedelta(days=settings.link_days),
            join_window=timedelta(seconds=settings.join_seconds),
            openai=openai_policy(settings),
            clock_ahead=lambda: shared_clock.ahead,
        )


def require_models(settings: Settings, catalog: Catalog) -> None:
    """Raise ConfigurationError if an alias or an account of the configuration file names a model that is not served.

    An account may name models that are passed on without a row.
    """
    for alias, model_id in settings.file.openai.aliases.items():
        if model_id not in catalog.served:
            raise ConfigurationError(f"FLUXHOOK_CONFIG: openai: aliases: {alias}: {catalog.why_not(model_id)}")
    for account in settings.file.accounts:
        for model_id in () if catalog.pass_unknown else account.models or ():
            if model_id not in catalog.served:
                raise ConfigurationError(
                    f"FLUXHOOK_CONFIG: accounts ({account.name}): models: {catalog.why_not(model_id)}"
                )


def openai_policy(settings: Settings) -> OpenAiPolicy:
    """Return how the API in OpenAI's form answers."""
    keepalive = settings.openai_keepalive_seconds
    return OpenAiPolicy(
        aliases=settings.file.openai.aliases,
        wait=timedelta(seconds=settings.openai_wait_seconds),
        keepalive=None if keepalive is None else timedelta(seconds=keepalive),
    )


def result_hosts(settings: Settings, accounts: Accounts) -> tuple[str, ...]:
    """Return the only hosts that results may come from; empty if they may come from any.

    The providers' usual hosts are always among them, so a setting that adds a host refuses no usual result.
    """
    return (*accounts.result_hosts, *settings.result_hosts) if settings.result_hosts else ()


def build_outbound(settings: Settings) -> Outbound:
    """Return how outgoing connections are made. Raises ConfigurationError if the CA file cannot be used."""
    proxy = settings.https_proxy
    return open_outbound(settings.ca_file, proxy.get_secret_value() if proxy else None)


def disk_reserve(settings: Settings) -> DiskReserve:
    """Return the reserve on the volumes of DATA_DIR, of a SQLite database and of a store in a folder."""
    folders = {"DATA_DIR": settings.data_dir}
    if settings.embedded:
        folders["the database"] = Path(file_of(database_url(settings))).parent
    store = store_folder(settings)
    if store is not None:
        folders["the image store"] = store
    reserve = settings.disk_reserve_mb
    return DiskReserve(folders, None if reserve is None else reserve * 1024**2)


def uploads(settings: Settings, disk: DiskReserve) -> Uploads:
    """Return the folder for large request bodies, emptied."""
    opened = Uploads(settings.data_dir / "uploads", disk, settings.max_uploads, settings.max_uploads_mb * 1024**2)
    opened.empty()
    return opened


def load_catalog(settings: Settings) -> Catalog:
    """Return the models of the settings. Raises ConfigurationError, which names the row of the operator's file."""
    return open_catalog(settings.models_file, pass_unknown=settings.unknown_models == "pass")


def service_budget(settings: Settings) -> Budget | None:
    """Return the budget of all applications together."""
    return None if settings.budget is None else Budget.parse(settings.budget)


def retention(settings: Settings) -> Retention:
    """Return for how long the data of tasks is kept."""
    return Retention(
        images=period(settings.image_days),
        inputs=period(settings.input_days),
        evidence=period(settings.evidence_days),
        tasks=period(settings.task_days),
    )


def application_limits(settings: Settings) -> Limits:
    """Return the limits of an application that has none of its own."""
    names = (name for name in NAMES if name != "in_flight")  # admission reads that one from the application's row
    return Limits(**{name: getattr(settings, f"limit_{name}") for name in names})


def configured_accounts(settings: Settings, catalog: Catalog) -> list[ConfiguredAccount]:
    """Return the accounts of the settings, in order, as every process records them at its start."""
    return [
        ConfiguredAccount(
            id=account.id,
            provider=provider_spec(account).name,
            limits=slot_limits(account, catalog),
            region=account.region,
            models=None if account.models is None else sorted(account.models),
        )
        for account in settings.accounts
    ]


def user_agent(settings: Settings) -> str:
    """Return what the hosts of input images see: the version, and a contact if one is known."""
    contact = settings.contact or settings.public_url
    return f"fluxhook/{__version__}" + (f" (+{contact})" if contact and contact.isascii() else "")


def database_url(settings: Settings) -> str:
    return settings.database_url or f"sqlite:///{settings.data_dir / 'fluxhook.db'}"


def open_configured_database(settings: Settings) -> AbstractAsyncContextManager[Database]:
    """Open the database of the settings, and close it at the end. Raises ConfigurationError for a wrong URL."""
    return open_database(
        database_url(settings),
        direct_url=settings.database_direct_url,
        timeouts=Timeouts(statement_s=settings.statement_seconds),
    )


def open_store(settings: Settings) -> Store:
    """Return the store that the settings name: a bucket or a folder."""
    folder = store_folder(settings)
    if folder is not None:
        return FolderStore(folder)
    from app.store.bucket import ObjectStore  # noqa: PLC0415 - its library is loaded only if it is needed

    return ObjectStore(settings.store_url or "")


def store_folder(settings: Settings) -> Path | None:
    """Return the folder that holds the images, or None if a bucket does. Raises ConfigurationError."""
    url = settings.store_url
    if url is None:
        return settings.data_dir / "images"
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise ConfigurationError(f"FLUXHOOK_STORE_URL: not a valid URL: {error}") from error
    if scheme in BUCKETS:
        return None
    if scheme not in {"", "file"}:
        raise ConfigurationError(
            f"FLUXHOOK_STORE_URL: must be a folder or begin with s3://, gs:// or az://, not {scheme}://"
        )
    return Path(url.removeprefix("file://"))


def key_ring(settings: Settings) -> KeyRing:
    """Return the configured keys, else the key that the first start created in DATA_DIR."""
    configured = tuple(key.get_secret_value() for key in settings.secret_keys)
    return KeyRing(configured or (load_or_create_secret(settings.data_dir / "secret_keys")[0],))


def load_or_create_secret(path: Path) -> tuple[str, bool]:
    """Return the secret in this file, and whether this call created it. Raises ConfigurationError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_secret(path), False
    with os.fdopen(handle, "w") as file:
        secret = ids.new_key()
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
    return secret, True


def _read_secret(path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{path} cannot be read: {why}; it is in FLUXHOOK_DATA_DIR") from error
    if not secret:
        raise ConfigurationError(f"{path} is empty: remove it to create a new secret, or restore it from a backup")
    return secret
