"""Deliver webhooks: send the deliveries that are due at one endpoint, record the outcomes, schedule the next round.

Each job handles one endpoint, so an unreachable endpoint delays no other. Outcomes are recorded after the round: if the
process dies in between, the deliveries are sent again, and the receiver recognises a copy by its id.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import httpx
from opentelemetry.trace import SpanKind

from app import ids, jobs
from app.db import Connection
from app.db.tables import deliveries, endpoints, results, tasks
from app.db.tables.deliveries import Delivery
from app.db.tables.endpoints import Endpoint, EndpointState
from app.jobs import NO_JOB, JobEnd, NewJob, Step
from app.resources import Resources, Runtime
from app.rules.backoff import ENDPOINT
from app.rules.limits import Limits
from app.telemetry import logs, metrics, tracing
from app.transitions import limits
from app.transitions.limits import Allowed
from app.webhooks.delivery import BROKEN, SEALED, TIMEOUT, UNREACHABLE, OutgoingWebhook, deliver
from app.webhooks.outcomes import SentWebhook, record

_PER_ENDPOINT = 4  # concurrent deliveries to an endpoint; one while it fails
# Concurrent endpoints of an application at a host: tasks can have thousands of URLs on one unreachable host.
_PER_HOST = 8
_HOST_BUSY_WAIT = timedelta(seconds=5)
_APPLICATION_BUSY_WAIT = timedelta(seconds=1)

# Create these series at 0: `rate()` and `increase()` miss the first increment of a series that starts at 1.
for _kind in ("delivered", "refused", UNREACHABLE, TIMEOUT, BROKEN, SEALED):
    metrics.webhook_attempts.labels(_kind)
for _state in (EndpointState.PAUSED, EndpointState.GONE):
    metrics.endpoints_stopped.labels(_state)

log = logs.get("notify")


async def notify(use: Resources, endpoint_id: str, end: JobEnd = NO_JOB) -> None:
    """Send the deliveries that are due at an endpoint, and schedule the next round."""
    found = await use.db.read(_read, use.limits, endpoint_id, use.now())
    if found is None:
        return
    endpoint, webhooks, allowed = found
    host = (endpoint.application_id, httpx.URL(endpoint.url).netloc.decode())
    busy = _busy(use, host, allowed, len(webhooks))
    if busy is not None:
        later = use.now() + _busy_wait(busy, use.now() - webhooks[0].delivery.due_at)
        await use.db.write(end.after(jobs.enqueue), [NewJob(Step.NOTIFY, endpoint_id, later)])
        return
    with _counted(use, host):
        async with use.notifying.taken(allowed.application_id, None, units=len(webhooks)):
            attempts = await asyncio.gather(*(_send(use, webhook) for webhook in webhooks))
    stopped = await use.db.write(end.after(record), endpoint_id, attempts, use.now())
    _report(attempts, endpoint_id, stopped)


def _busy(use: Runtime, host: tuple[str, str], allowed: Allowed, count: int) -> timedelta | None:
    """Return how long at least to postpone these deliveries; None if they can be sent now.

    They wait if the host has no capacity for the application, or if the application has too many deliveries under way
    already: its slow receivers must not delay the webhooks of others.
    """
    if not count:
        return None
    if use.delivering[host] >= _PER_HOST:
        return _HOST_BUSY_WAIT
    limit = allowed.limits.deliveries
    under_way = use.notifying.held(allowed.application_id)
    return _APPLICATION_BUSY_WAIT if limit is not None and under_way and under_way + count > limit else None


def _busy_wait(shortest: timedelta, overdue: timedelta) -> timedelta:
    """Return how long to postpone an endpoint that cannot be served now: the longer it is overdue, the longer.

    Each check costs a few statements. With a fixed wait, ten thousand endpoints on one hanging host would all be
    checked in the time of eight deliveries, and all other endpoints would queue behind them.
    """
    wait = min(max(shortest, overdue / 2), ENDPOINT.longest)
    return wait + ids.jitter(wait)


@contextmanager
def _counted(use: Runtime, host: tuple[str, str]) -> Generator[None]:
    """Count an endpoint of the application at the host as being delivered to. Entries that reach zero are deleted."""
    use.delivering[host] += 1
    try:
        yield
    finally:
        use.delivering[host] -= 1
        if not use.delivering[host]:
            del use.delivering[host]


def _read(
    connection: Connection, defaults: Limits, endpoint_id: str, now: datetime
) -> tuple[Endpoint, list[OutgoingWebhook], Allowed] | None:
    endpoint = endpoints.get(connection, endpoint_id)
    if endpoint is None:
        return None
    limit = 1 if endpoint.failures else _PER_ENDPOINT
    due = deliveries.due(connection, endpoint_id, now, limit, tests=_only_tests(endpoint, now))
    allowed = limits.of_application(connection, defaults, endpoint.application_id)
    return endpoint, [_webhook(connection, delivery) for delivery in due], allowed


def _only_tests(endpoint: Endpoint, now: datetime) -> bool:
    backs_off = endpoint.backoff_until is not None and endpoint.backoff_until > now
    return backs_off or endpoint.state is not EndpointState.ACTIVE


def _webhook(connection: Connection, delivery: Delivery) -> OutgoingWebhook:
    if delivery.task_id is None:
        return OutgoingWebhook(delivery, None, None)
    result = results.of_tasks(connection, [delivery.task_id]).get(delivery.task_id)
    return OutgoingWebhook(delivery, tasks.get(connection, delivery.task_id), result)


async def _send(use: Resources, webhook: OutgoingWebhook) -> SentWebhook:
    """Send one webhook. Its timeout starts once the limit on concurrent deliveries admits it."""
    async with use.sending.taken(1):
        return await _send_now(use, webhook)


async def _send_now(use: Resources, webhook: OutgoingWebhook) -> SentWebhook:
    delivery, began_at = webhook.delivery, use.now()
    trace = webhook.task.traceparent if webhook.task else None
    with tracing.span("webhook", SpanKind.CLIENT, trace, task_id=delivery.task_id, delivery_id=delivery.id) as span:
        outcome = await deliver(use, webhook)
        if not outcome.delivered:
            tracing.fail(span, outcome.error or "refused")
    return SentWebhook(webhook, began_at, outcome)


def _report(attempts: Sequence[SentWebhook], endpoint_id: str, stopped: EndpointState | None) -> None:
    """Log and count the outcomes of a round."""
    for attempt in attempts:
        delivery, outcome = attempt.webhook.delivery, attempt.outcome
        kind = "delivered" if outcome.delivered else outcome.error or "refused"
        metrics.webhook_attempts.labels(kind).inc()
        fields = {"delivery_id": delivery.id, "task_id": delivery.task_id, "endpoint_id": endpoint_id}
        log.info("delivery", outcome=kind, http_status=outcome.http_status, ms=outcome.latency_ms, **fields)
    if stopped is not None:
        metrics.endpoints_stopped.labels(stopped).inc()
        log.warning("endpoint_stopped", endpoint_id=endpoint_id, state=stopped)
