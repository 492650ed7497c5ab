"""Counters and histograms of this process, in the Prometheus format. Labels never hold user input.

Each effect is counted once, after its commit, because a unit of work can be rolled back and run again. Values that the
database holds are gauges, which `worker/metrics_snapshot` reads at each scrape.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app import __version__

REGISTRY = CollectorRegistry()
disable_created_metrics()  # type: ignore[no-untyped-call] # doubles the series; no rule reads them
for _collector in (ProcessCollector, PlatformCollector, GCCollector):
    _collector(registry=REGISTRY)

_WAITS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds; a request waits at most 60

assets_lost = Counter(
    "fluxhook_assets_lost",
    "Images that were generated but could not be downloaded before their link expired.",
    registry=REGISTRY,
)
results_spooled = Counter(
    "fluxhook_results_spooled",
    "Images spooled to local disk because the image store could not accept them.",
    registry=REGISTRY,
)
images_unverified = Counter(
    "fluxhook_images_unverified",
    "Images that were stored although they could not be decoded completely.",
    registry=REGISTRY,
)
downloads_failed = Counter(
    "fluxhook_downloads_failed",
    "Failed downloads of results, by cause: refused (the link or its answer), network, or local (disk, store).",
    ["cause"],
    registry=REGISTRY,
)
for _cause in ("refused", "network", "local"):
    downloads_failed.labels(_cause)  # so that the series start at zero
tasks_repaired_by_poll = Counter(
    "fluxhook_tasks_repaired_by_poll",
    "Tasks whose result came from polling, because the callback was missing or proved nothing.",
    registry=REGISTRY,
)
orphaned_tasks_recovered = Counter(
    "fluxhook_orphaned_tasks_recovered",
    "Open tasks and endpoints with waiting deliveries that the sweep found without a job. Should stay 0.",
    registry=REGISTRY,
)
tasks_ended = Counter(
    "fluxhook_tasks_ended",
    "Tasks that reached a final state, by state and, for failed tasks, by failure code.",
    ["status", "failure"],
    registry=REGISTRY,
)
budget_warnings = Counter(
    "fluxhook_budget_warnings",
    "Periods of a budget in which 80 % of it was reached.",
    registry=REGISTRY,
)
callbacks = Counter(
    "fluxhook_callbacks",
    "Callbacks by verdict and response status; `unchecked` means an unknown address or an oversized body.",
    ["verdict", "status"],
    registry=REGISTRY,
)
connections_refused = Counter(
    "fluxhook_connections_refused",
    "Connections that were closed because of a limit or invalid HTTP, by reason.",
    ["reason"],
    registry=REGISTRY,
)
callbacks_shed = Counter(
    "fluxhook_callbacks_shed",
    "Callbacks answered with 503 at once because the queue of callbacks to be written was full.",
    registry=REGISTRY,
)
forged_callbacks_dropped = Counter(
    "fluxhook_forged_callbacks_dropped",
    "Forged callbacks that were rejected but not stored, because the limit for stored forgeries was reached.",
    registry=REGISTRY,
)
deadline_margin = Histogram(
    "fluxhook_deadline_margin_seconds",
    "Time between storing an image and the stated expiry of its link; negative if it was stored after that.",
    buckets=(0, 15, 30, 60, 120, 240, 360, 480, 540, 570, 600, 1800, 3600),
    registry=REGISTRY,
)
provider_requests = Histogram(
    "fluxhook_provider_request_seconds",
    "Duration of requests to the provider, by type (submit or poll) and meaning of the response.",
    ["request", "said"],
    buckets=_WAITS,
    registry=REGISTRY,
)
http_requests = Histogram(
    "fluxhook_http_request_seconds",
    "Duration of requests to this process, by route template. Long on purpose with `Prefer: wait`.",
    ["method", "route", "status"],
    buckets=_WAITS,
    registry=REGISTRY,
)
job_attempts = Histogram(
    "fluxhook_job_attempt_seconds",
    "Duration of job attempts, by step and outcome (done or failed).",
    ["step", "outcome"],
    buckets=_WAITS,
    registry=REGISTRY,
)
webhook_attempts = Counter(
    "fluxhook_webhook_attempts",
    "Webhook delivery attempts, by outcome: delivered, refused, unreachable, timeout, broken or sealed.",
    ["outcome"],
    registry=REGISTRY,
)
endpoints_stopped = Counter(
    "fluxhook_endpoints_stopped",
    "Endpoints that no longer receive webhooks: paused after three days of failures, or gone (answered 410).",
    ["state"],
    registry=REGISTRY,
)
clock_ahead = Gauge(
    "fluxhook_clock_ahead_seconds",
    "How far this machine's clock is ahead of the database's, negative if it is behind; 0 on SQLite. It is corrected.",
    registry=REGISTRY,
)

# The former names of counters. They are removed in the release after this one.
_DEPRECATED = {
    "fluxhook_images_kept_aside": results_spooled,
    "fluxhook_tasks_unscheduled": orphaned_tasks_recovered,
    "fluxhook_callbacks_turned_away": callbacks_shed,
    "fluxhook_forgeries_not_kept": forged_callbacks_dropped,
}


def exposition(live: Iterable[Metric] = ()) -> bytes:
    """Return the metrics of this process, followed by the given families."""
    return generate_latest(REGISTRY) + generate_latest(_Read(live))


@contextmanager
def scraped(host: str, port: int | None) -> Generator[int | None]:
    """Serve scrapes from a thread in a process without an API; yield the port. With `port=None` nothing is served.

    The response holds the counters of this process only; any API process serves the database metrics. Raises OSError
    if the port is in use.
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
        family = GaugeMetricFamily(
            "fluxhook_build_info", "Always 1; the label is the running version.", labels=["version"]
        )
        family.add_metric([__version__], 1)
        return [family]


class _DeprecatedNames(Collector):
    def collect(self) -> Iterable[Metric]:
        for name, counter in _DEPRECATED.items():
            (family,) = counter.collect()
            yield CounterMetricFamily(
                name, f"Deprecated: use `{family.name}_total`.", value=sum(sample.value for sample in family.samples)
            )


REGISTRY.register(_Version())
REGISTRY.register(_DeprecatedNames())


class Refusal(StrEnum):
    """Why a connection was closed."""

    INVALID = "invalid"
    LARGE_HEAD = "head_too_large"
    SLOW_HEAD = "head_too_slow"
    SLOW_BODY = "body_too_slow"
    UNREAD = "answer_not_read"
    TOO_MANY = "too_many"


for _reason in Refusal:  # at 0, because `rate()` misses the first increment of a series that starts at 1
    connections_refused.labels(_reason.value)


class _Read(CollectorRegistry):
    """A registry of metric families that have already been collected."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
