"""What the steps are handed, as one frozen value, passed first and called `use`. `wiring.open_resources` builds it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx

from app import clock, ids
from app.catalog import Catalog
from app.db.engine.batches import Batcher
from app.db.engine.database import Database
from app.db.tables.evidence import Evidence
from app.provider import Provider
from app.rules.sampling import SampleLimit
from app.rules.weighted_semaphore import WeightedSemaphore
from app.security import ssrf
from app.security.keyring import KeyRing
from app.store import DiskReserve, Spool, Store, Uploads

# Past this many concurrent requests httpx itself becomes slow.
_CONCURRENT_WEBHOOKS = 64
# A decoded image takes four bytes a pixel. Six results of about one megapixel at once take 24 MB.
_CONCURRENT_PIXELS = 6_000_000
# The largest input image that a provider takes needs 360 MB as WebP, and 20 MB as a usual JPEG.
_INPUT_DECODING_BYTES = 384 * 1024 * 1024
_CONCURRENT_FETCHES = 64


@dataclass(frozen=True, slots=True)
class Resources:
    """Connections, policy and limits of one process.

    Tests build it with a frozen clock, the provider's twin and a temporary folder.
    """

    # Connections
    db: Database
    callbacks: Batcher[Evidence, bool]  # stores and settles callbacks; the result: whether the attempt exists
    store: Store
    provider: Provider | None  # None: no provider key is configured, so no task can be submitted
    web: httpx.AsyncClient  # for URLs that applications name
    webhooks: httpx.AsyncClient  # for webhook endpoints
    results: httpx.AsyncClient  # for the provider's links

    # Policy, from the settings
    catalog: Catalog
    keys: KeyRing
    now: clock.Now
    account_id: str  # the provider account whose slots and credits are used
    result_hosts: tuple[str, ...]  # the only hosts that results may come from, `name` or `*.name`; empty: any host
    provider_origin: str
    public_url: str | None  # None: the provider gets no callback URL and is polled
    trust_shared_secret: bool
    # How long a callback may still prove an attempt whose answer was lost; None: the sum of the provider's times
    evidence_window: timedelta | None
    scratch: Path  # DATA_DIR: temporary files of requests and downloads, and the spool
    uploads: Uploads  # large request bodies while they arrive
    disk: DiskReserve
    egress_allow: tuple[ssrf.Network, ...] = ()  # private networks that applications may name; plain HTTP is allowed
    send_webhook_secret: bool = (
        True  # webhooks in the provider's form carry the application's secret, as the provider's do
    )
    webhook_deadline: timedelta = timedelta(seconds=15)  # for one delivery attempt in all, however slowly it answers
    user_agent: str = "fluxhook"  # of requests for input images: names the service and a contact
    evidence_retention: timedelta | None = None  # after a task became final; None: without limit
    link_life: timedelta = timedelta(days=7)  # of a link to a result that needs no key
    clock_ahead: Callable[[], timedelta] = timedelta  # how far this machine's clock is ahead of the database's

    # Limits and state of this process
    worker_id: str = field(default_factory=ids.new_worker_id)  # the owner of the job leases of this process
    forgeries: SampleLimit = field(default_factory=SampleLimit)  # which forged callbacks are stored
    delivering: Counter[str] = field(default_factory=Counter)  # endpoints with a delivery under way, by host
    sending: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_CONCURRENT_WEBHOOKS))
    decoding: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_CONCURRENT_PIXELS))  # in pixels
    decoding_inputs: WeightedSemaphore = field(  # in bytes of memory
        default_factory=lambda: WeightedSemaphore(_INPUT_DECODING_BYTES)
    )
    fetching: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_CONCURRENT_FETCHES))  # input images
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when the process is asked to stop

    @property
    def spool(self) -> Spool:
        """Where image bytes are kept while the store is unavailable."""
        return Spool(self.scratch)
