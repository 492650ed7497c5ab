"""What this process counts about itself, in the form that Prometheus reads. Labels never hold what a user sent.

Something is counted once for each effect, so after its commit: a unit of work may be undone and run again. What the
database knows is no counter: `standing` reads it at each scrape.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app import __version__

REGISTRY = CollectorRegistry()
disable_created_metrics()  # type: ignore[no-untyped-call] # a series for each series, which no rule reads
for _collector in (ProcessCollector, PlatformCollector, GCCollector):
    _collector(registry=REGISTRY)

_WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds; 60 is what a request may wait at most

assets_lost = Counter(
    "fluxhook_assets_lost", "Images that were made and could not be fetched while their link lived.", registry=REGISTRY
)
images_kept_aside = Counter(
    "fluxhook_images_kept_aside",
    "Images that the store could not take, kept on a machine's own disk until it could.",
    registry=REGISTRY,
)
tasks_repaired_by_poll = Counter(
    "fluxhook_tasks_repaired_by_poll",
    "Tasks whose result came by asking the provider, because the callback did not come or proved nothing.",
    registry=REGISTRY,
)
tasks_unscheduled = Counter(
    "fluxhook_tasks_unscheduled",
    "Open tasks, and endpoints that something waited for, that had no job until the sweeper mended it. Stays 0.",
    registry=REGISTRY,
)
tasks_ended = Counter(
    "fluxhook_tasks_ended",
    "Tasks that reached a final state, by state and, where they failed, by failure code.",
    ["status", "failure"],
    registry=REGISTRY,
)
callbacks = Counter(
    "fluxhook_callbacks",
    "Callbacks by what they proved and the HTTP status they were answered with; `unchecked` ones had no known address.",
    ["verdict", "status"],
    registry=REGISTRY,
)
callbacks_turned_away = Counter(
    "fluxhook_callbacks_turned_away",
    "Callbacks answered 503 at once because as many waited to be written as can be held.",
    registry=REGISTRY,
)
forgeries_not_kept = Counter(
    "fluxhook_forgeries_not_kept",
    "Forged callbacks that were refused without being written down, because enough of them had been.",
    registry=REGISTRY,
)
deadline_margin = Histogram(
    "fluxhook_deadline_margin_seconds",
    "How long before the end of its link an image was stored; below 0 the link outlived what it said.",
    buckets=(0, 15, 30, 60, 120, 240, 360, 480, 540, 570, 600, 1800, 3600),
    registry=REGISTRY,
)
provider_requests = Histogram(
    "fluxhook_provider_request_seconds",
    "Requests to the provider, submit or poll, by what its answer said.",
    ["request", "said"],
    buckets=_WAITS,
    registry=REGISTRY,
)
http_requests = Histogram(
    "fluxhook_http_request_seconds",
    "Requests to this process, by the template of their route. `Prefer: wait` makes one long on purpose.",
    ["method", "route", "status"],
    buckets=_WAITS,
    registry=REGISTRY,
)
job_attempts = Histogram(
    "fluxhook_job_attempt_seconds",
    "Attempts to do a job, by its step and whether the attempt was done or failed.",
    ["step", "outcome"],
    buckets=_WAITS,
    registry=REGISTRY,
)
webhook_attempts = Counter(
    "fluxhook_webhook_attempts",
    "Tries to tell an application of a task: delivered, refused, unreachable, timeout, broken or sealed.",
    ["outcome"],
    registry=REGISTRY,
)
endpoints_stopped = Counter(
    "fluxhook_endpoints_stopped",
    "Endpoints that nothing is sent to any more: paused after three days of failures, or gone by their own word.",
    ["state"],
    registry=REGISTRY,
)


def exposition(live: Iterable[Metric] = ()) -> bytes:
    """Everything that this process counted, and after it the families that were read just now."""
    return generate_latest(REGISTRY) + generate_latest(_Read(live))


@contextmanager
def scraped(host: str, port: int | None) -> Generator[int | None]:
    """Answer scrapes from a thread, for a process without an API; gives the port. None: nobody is answered.

    These are its own counters alone: any API shows what the database knows. Raises OSError for a port that is taken.
    """
    if port is None:
        yield None
        return
    server, thread = start_http_server(port, host, REGISTRY)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Version(Collector):
    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("fluxhook_build_info", "1, for the version that runs.", labels=["version"])
        family.add_metric([__version__], 1)
        return [family]


REGISTRY.register(_Version())


class _Read(CollectorRegistry):
    """A registry of families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
