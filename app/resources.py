"""Everything a step is handed, as one frozen value: built once by `open_resources`, passed first, called `use`."""

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from app import clock, ids
from app.db.engine.database import Database, open_database
from app.errors import ConfigurationError
from app.provider import Bfl, Gptproto, Provider, ProviderSpec
from app.provider import http as provider_exchange
from app.rules.sampling import SampleLimit
from app.rules.weighted_semaphore import WeightedSemaphore
from app.security import ssrf
from app.security.keyring import KeyRing
from app.settings import Settings
from app.store import BUCKETS, FolderStore, Spool, Store

# The worker's lane has as many endpoints in hand, each with up to four deliveries; past this httpx itself gets slow.
_WEBHOOKS_AT_ONCE = 64
# A decoded image takes four bytes for each pixel. The provider's have about one megapixel: six at once, 24 MB.
_PIXELS_AT_ONCE = 6_000_000


@dataclass(frozen=True, slots=True)
class Resources:
    """What the steps use. Tests build it with a frozen clock, a twin for a provider and a folder of their own."""

    db: Database
    store: Store
    keys: KeyRing
    now: clock.Now
    account_id: str  # whose slots and credits are used
    provider: Provider | None  # None: no key is configured, so nothing can be submitted
    web: httpx.AsyncClient  # for addresses that an application names
    webhooks: httpx.AsyncClient  # for those that want to be told
    results: httpx.AsyncClient  # for the provider's links
    result_hosts: tuple[str, ...]
    provider_origin: str
    public_url: str | None  # None: no callbacks, the provider is polled
    trust_shared_secret: bool
    hold_window: timedelta  # how long a callback may still prove an attempt whose answer was lost
    scratch: Path  # DATA_DIR: for files that requests and downloads are working on, and what is kept aside
    worker_id: str = field(default_factory=ids.new_worker_id)  # whose the jobs are that this process has in hand
    egress_allow: tuple[ssrf.Network, ...] = ()  # where plain http may go, too
    webhook_deadline: timedelta = timedelta(seconds=15)  # for one try in all: an answer that drips is none
    evidence_kept: timedelta | None = None  # how long after a task ended; None: for ever
    link_life: timedelta = timedelta(days=7)  # of a link to a result that needs no key
    forgeries: SampleLimit = field(default_factory=SampleLimit)  # which of them are kept
    delivering: Counter[str] = field(default_factory=Counter)  # endpoints in hand here, by the host they lie on
    sending: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_WEBHOOKS_AT_ONCE))
    decoding: WeightedSemaphore = field(
        default_factory=lambda: WeightedSemaphore(_PIXELS_AT_ONCE)
    )  # of results, in pixels
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when the process was asked to end

    @property
    def spool(self) -> Spool:
        """Where bytes lie that the store could not take."""
        return Spool(self.scratch)


@asynccontextmanager
async def open_resources(settings: Settings, now: clock.Now = clock.utc_now) -> AsyncGenerator[Resources]:
    """Connect to everything that the settings name, and let go of it at the end."""
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_database(database_url(settings)))
        http = await stack.enter_async_context(provider_exchange.client())
        provider = build_provider(settings, http)
        yield Resources(
            db=db,
            store=open_store(settings),
            keys=key_ring(settings),
            now=now,
            account_id=account_id(settings),
            provider=provider,
            web=await stack.enter_async_context(ssrf.guarded_client(settings.egress_allow)),
            webhooks=await stack.enter_async_context(ssrf.guarded_client(settings.egress_allow, plain_http=False)),
            results=await stack.enter_async_context(results_client()),
            result_hosts=(*(provider.spec.result_hosts if provider else ()), *settings.result_hosts),
            provider_origin=provider_base(settings),
            public_url=settings.public_url,
            trust_shared_secret=settings.shared_secret_callbacks == "accept",  # noqa: S105
            hold_window=hold_window(settings, provider),
            scratch=settings.data_dir,
            egress_allow=settings.egress_allow,
            evidence_kept=None if settings.evidence_days is None else timedelta(days=settings.evidence_days),
            link_life=timedelta(days=settings.link_days),
        )


def results_client(transport: httpx.AsyncBaseTransport | None = None) -> httpx.AsyncClient:
    """For the provider's links: no key, no cookies, no redirects, bytes as they are."""
    return httpx.AsyncClient(
        transport=transport,
        verify=ssrf.tls(),
        trust_env=False,
        follow_redirects=False,
        cookies=ssrf.no_cookies(),
        headers={"accept-encoding": "identity"},
        timeout=httpx.Timeout(30, connect=10),
    )


def provider_base(settings: Settings) -> str:
    return settings.bfl_base_url if settings.provider == "bfl" else settings.gptproto_base_url


def promises_of(settings: Settings) -> ProviderSpec:
    return Bfl.spec if settings.provider == "bfl" else Gptproto.spec


def build_provider(settings: Settings, http: httpx.AsyncClient) -> Provider | None:
    if settings.provider_key is None:
        return None
    adapter = Bfl if settings.provider == "bfl" else Gptproto
    return adapter(http, provider_base(settings), settings.provider_key)


def hold_window(settings: Settings, provider: Provider | None) -> timedelta:
    """As the operator says, else as the provider's promises add up; without callbacks nothing will ever prove it."""
    if settings.public_url is None or provider is None:
        return timedelta()
    if settings.hold_seconds is not None:
        return timedelta(seconds=settings.hold_seconds)
    return provider.spec.slowest_task + provider.spec.callback_window


def account_id(settings: Settings) -> str:
    """Names an account of a provider by its key, without giving the key away."""
    digest = hashlib.sha256((settings.provider_key or "").encode()).hexdigest()[:12]
    return f"{settings.provider}:{digest}"


def database_url(settings: Settings) -> str:
    return settings.database_url or f"sqlite:///{settings.data_dir / 'fluxhook.db'}"


def open_store(settings: Settings) -> Store:
    """The store that the settings name: a bucket, or a folder."""
    folder = store_folder(settings)
    if folder is not None:
        return FolderStore(folder)
    from app.store.bucket import ObjectStore  # noqa: PLC0415 - a folder needs nothing of what buckets do

    return ObjectStore(settings.store_url or "")


def store_folder(settings: Settings) -> Path | None:
    """The folder that images are kept in; None when it is a bucket."""
    url = settings.store_url
    if url is None:
        return settings.data_dir / "images"
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise ConfigurationError(f"FLUXHOOK_STORE_URL: is no address of a bucket: {error}") from error
    if scheme in BUCKETS:
        return None
    if scheme not in {"", "file"}:
        raise ConfigurationError(f"FLUXHOOK_STORE_URL: not a folder, s3://, gs:// or az://, but {scheme}://")
    return Path(url.removeprefix("file://"))


def key_ring(settings: Settings) -> KeyRing:
    """The configured keys, or the one that is made on the first start and kept in DATA_DIR."""
    configured = tuple(key.get_secret_value() for key in settings.secret_keys)
    return KeyRing(configured or (kept_secret(settings.data_dir / "secret_keys")[0],))


def kept_secret(path: Path) -> tuple[str, bool]:
    """The secret in this file, made when there is none; and whether it was made just now."""
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
        why = error.strerror if isinstance(error, OSError) else "it holds no text"
        raise ConfigurationError(f"{path} cannot be read: {why}; it is in FLUXHOOK_DATA_DIR") from error
    if not secret:
        raise ConfigurationError(f"{path} is empty: remove it to have a new secret made, or restore it")
    return secret
