"""What the steps are handed, passed first and called `use`. `wiring.open_resources` builds it.

`Resources` has three parts: `Connections`, `Policy` and `Runtime`. A function takes the part that it uses, so its
signature says whether it can reach the database. A step takes all of `Resources`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import httpx

from app import clock, ids
from app.catalog import Catalog
from app.db.engine.batches import Batcher
from app.db.engine.database import Database
from app.db.engine.places import Places
from app.db.tables.evidence import Evidence
from app.provider import Accounts
from app.rules.budget import Budget
from app.rules.limits import DEFAULTS, Limits
from app.rules.retention import UNLIMITED, Retention
from app.rules.sampling import SampleLimit
from app.rules.shares import Shares
from app.rules.turns import Turns
from app.rules.weighted_semaphore import WeightedSemaphore
from app.security import ssrf
from app.security.keyring import KeyRing
from app.store import DiskReserve, Presigner, Spool, Store, Uploads

# Past this many concurrent requests httpx itself becomes slow.
_CONCURRENT_WEBHOOKS = 64
# A decoded image takes four bytes a pixel. Six results of about one megapixel at once take 24 MB.
_CONCURRENT_PIXELS = 6_000_000
# The largest input image that a provider takes needs 360 MB as WebP, and 20 MB as a usual JPEG.
_INPUT_DECODING_BYTES = 384 * 1024 * 1024
_CONCURRENT_FETCHES = 64
# On PostgreSQL, more would wait for the lock of the account's row, and other applications behind them.
_RECORDED_AT_ONCE = 8
# Statistics read many rows. SQLite has four threads that read, and a request needs one to find its key.
_REPORTS, _REPORT_WAIT_S = 2, 60.0
_TOO_MANY_REPORTS = "other statistics are being read: try again in a moment"

# For how long a request whose answer was not delivered can be joined by an identical one.
JOIN_WINDOW = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class OpenAiPolicy:
    """How the API in OpenAI's form answers."""

    aliases: Mapping[str, str] = field(default_factory=dict)  # ids of models by name; `default`: without a model
    wait: timedelta = timedelta(seconds=55)  # how long a request is held
    keepalive: timedelta | None = None  # between whitespace bytes during the wait; None: none are sent


@dataclass(frozen=True, kw_only=True)
class Connections:
    """What leads out of this process: the database, the store, the provider and HTTP clients."""

    db: Database
    callbacks: Batcher[Evidence, bool]  # stores and settles callbacks; the result: whether the attempt exists
    store: Store
    accounts: Accounts  # the provider accounts, with their adapters
    web: httpx.AsyncClient  # for URLs that applications name
    webhooks: httpx.AsyncClient  # for webhook endpoints
    results: httpx.AsyncClient  # for the provider's links
    scratch: Path  # DATA_DIR: temporary files of requests and downloads, and the spool
    uploads: Uploads  # large request bodies while they arrive
    disk: DiskReserve
    presigner: Presigner | None = None  # signs links to images; None: links lead to this service

    @property
    def spool(self) -> Spool:
        """Where image bytes are kept while the store is unavailable."""
        return Spool(self.scratch)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the settings decide: models, keys, the clock, bounds and times."""

    catalog: Catalog
    keys: KeyRing
    now: clock.Now
    clock_ahead: Callable[[], timedelta] = timedelta  # how far this machine's clock is ahead of the database's
    result_hosts: tuple[str, ...]  # the only hosts that results may come from, `name` or `*.name`; empty: any host
    public_url: str | None  # None: the provider gets no callback URL and is polled
    trust_shared_secret: bool
    # How long a callback may still prove an attempt whose answer was lost; None: the sum of the provider's times
    evidence_window: timedelta | None
    egress_allow: tuple[ssrf.Network, ...] = ()  # private networks that applications may name; plain HTTP is allowed
    resolve: ssrf.Resolve = ssrf.resolve_host  # how hosts of webhooks are looked up when a request names them
    send_webhook_secret: bool = (
        True  # webhooks in the provider's form carry the application's secret, as the provider's do
    )
    webhook_deadline: timedelta = timedelta(seconds=15)  # for one delivery attempt in all, however slowly it answers
    user_agent: str = "fluxhook"  # of requests for input images: names the service and a contact
    retention: Retention = UNLIMITED  # of applications that have none of their own
    budget: Budget | None = None  # for all applications together
    limits: Limits = DEFAULTS  # of an application that has no limits of its own
    unpriced_credits: float = 10  # reserved for a task of a model without a price hint
    link_life: timedelta = timedelta(days=7)  # of a link to a result that needs no key
    join_window: timedelta = JOIN_WINDOW
    openai: OpenAiPolicy = field(default_factory=OpenAiPolicy)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What this process has under way, and its bounds."""

    worker_id: str = field(default_factory=ids.new_worker_id)  # the owner of the job leases of this process
    forgeries: SampleLimit = field(default_factory=SampleLimit)  # which forged callbacks are stored
    # Endpoints with a delivery under way, by application and host.
    delivering: Counter[tuple[str, str]] = field(default_factory=Counter)
    uploading: Shares = field(default_factory=lambda: Shares("uploads", "large uploads"))  # by application
    working: Turns = field(default_factory=Turns)  # on large bodies and input images, by application
    reporting: Places = field(default_factory=lambda: Places(_REPORTS, _REPORT_WAIT_S, _TOO_MANY_REPORTS))
    recording: Turns = field(default_factory=lambda: Turns(_RECORDED_AT_ONCE))  # of tasks, by application
    fetching_of: Shares = field(default_factory=lambda: Shares("uploads", "input images to fetch"))  # by application
    streaming: Shares = field(default_factory=lambda: Shares("streams", "event streams"))  # by application
    notifying: Shares = field(default_factory=lambda: Shares("deliveries", "deliveries"))  # by application
    sending: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_CONCURRENT_WEBHOOKS))
    decoding: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_CONCURRENT_PIXELS))  # in pixels
    decoding_inputs: WeightedSemaphore = field(  # in bytes of memory
        default_factory=lambda: WeightedSemaphore(_INPUT_DECODING_BYTES)
    )
    fetching: WeightedSemaphore = field(default_factory=lambda: WeightedSemaphore(_CONCURRENT_FETCHES))  # input images
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set when the process is asked to stop


@dataclass(frozen=True, kw_only=True)
class Resources(Connections, Policy, Runtime):
    """Connections, policy and runtime of one process.

    Tests build it with a frozen clock, the provider's twin and a temporary folder.
    """
