"""Deliver webhooks: send the deliveries that are due at one endpoint, record the outcomes, schedule the next round.

Each job handles one endpoint, so an unreachable endpoint delays no other. Outcomes are recorded after the round: if the
process dies in between, the deliveries are sent again, and the receiver recognises a copy by its id.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import httpx
from opentelemetry.trace import SpanKind

from app import ids, jobs
from app.db import Connection
from app.db.tables import deliveries, delivery_attempts, endpoints, results, tasks
from app.db.tables.deliveries import TEST, Delivery, DeliveryChange, DeliveryState
from app.db.tables.endpoints import Endpoint, EndpointChange, EndpointState
from app.jobs import NewJob, Step
from app.resources import Resources
from app.rules.backoff import ENDPOINT, WEBHOOK_WAITS, webhook_wait
from app.telemetry import logs, metrics, tracing
from app.webhooks.delivery import BROKEN, SEALED, TIMEOUT, UNREACHABLE, Outcome, OutgoingWebhook, deliver

_PER_ENDPOINT = 4  # concurrent deliveries to an endpoint; one while it fails
_PER_HOST = 8  # concurrent endpoints of a host: tasks can have thousands of URLs on one unreachable host
_HOST_BUSY_WAIT = timedelta(seconds=5)
_MAX_RETRY_AFTER = timedelta(hours=1)  # for the backoff of the endpoint
_PAUSE_AFTER = sum(WEBHOOK_WAITS, timedelta())  # by then the first failed delivery has used all its tries

# Create these series at 0: `rate()` and `increase()` miss the first increment of a series that starts at 1.
for _kind in ("delivered", "refused", UNREACHABLE, TIMEOUT, BROKEN, SEALED):
    metrics.webhook_attempts.labels(_kind)
for _state in (EndpointState.PAUSED, EndpointState.GONE):
    metrics.endpoints_stopped.labels(_state)

log = logs.get("notify")


@dataclass(frozen=True, slots=True)
class _DeliveryAttempt:
    """One attempt to deliver a webhook, before it is recorded as a row."""

    webhook: OutgoingWebhook
    began_at: datetime
    outcome: Outcome


async def notify(use: Resources, endpoint_id: str) -> None:
    """Send the deliveries that are due at an endpoint, and schedule the next round."""
    found = await use.db.read(_read, endpoint_id, use.now())
    if found is None:
        return
    endpoint, webhooks = found
    host = httpx.URL(endpoint.url).netloc.decode()
    if webhooks and use.delivering[host] >= _PER_HOST:
        later = use.now() + _host_busy_wait(use.now() - webhooks[0].delivery.due_at)
        await use.db.write(jobs.enqueue, [NewJob(Step.NOTIFY, endpoint_id, later)])
        return
    with _counted(use, host):
        attempts = await asyncio.gather(*(_send(use, webhook) for webhook in webhooks))
    stopped = await use.db.write(_record, endpoint_id, attempts, use.now())
    _report(attempts, endpoint_id, stopped)


def _host_busy_wait(overdue: timedelta) -> timedelta:
    """Return how long to postpone an endpoint whose host has no capacity: the longer it is overdue, the longer.

    Each check costs a few statements. With a fixed wait, ten thousand endpoints on one hanging host would all be
    checked in the time of eight deliveries, and all other endpoints would queue behind them.
    """
    wait = min(max(_HOST_BUSY_WAIT, overdue / 2), ENDPOINT.longest)
    return wait + ids.jitter(wait)


@contextmanager
def _counted(use: Resources, host: str) -> Generator[None]:
    """Count an endpoint of the host as being delivered to. Entries that reach zero are deleted."""
    use.delivering[host] += 1
    try:
        yield
    finally:
        use.delivering[host] -= 1
        if not use.delivering[host]:
            del use.delivering[host]


def _read(connection: Connection, endpoint_id: str, now: datetime) -> tuple[Endpoint, list[OutgoingWebhook]] | None:
    endpoint = endpoints.get(connection, endpoint_id)
    if endpoint is None:
        return None
    limit = 1 if endpoint.failures else _PER_ENDPOINT
    due = deliveries.due(connection, endpoint_id, now, limit, tests=_only_tests(endpoint, now))
    return endpoint, [_webhook(connection, delivery) for delivery in due]


def _only_tests(endpoint: Endpoint, now: datetime) -> bool:
    backs_off = endpoint.backoff_until is not None and endpoint.backoff_until > now
    return backs_off or endpoint.state is not EndpointState.ACTIVE


def _webhook(connection: Connection, delivery: Delivery) -> OutgoingWebhook:
    if delivery.task_id is None:
        return OutgoingWebhook(delivery, None, None)
    result = results.of_tasks(connection, [delivery.task_id]).get(delivery.task_id)
    return OutgoingWebhook(delivery, tasks.get(connection, delivery.task_id), result)


async def _send(use: Resources, webhook: OutgoingWebhook) -> _DeliveryAttempt:
    """Send one webhook. Its timeout starts once the limit on concurrent deliveries admits it."""
    async with use.sending.taken(1):
        return await _send_now(use, webhook)


async def _send_now(use: Resources, webhook: OutgoingWebhook) -> _DeliveryAttempt:
    delivery, began_at = webhook.delivery, use.now()
    trace = webhook.task.traceparent if webhook.task else None
    with tracing.span("webhook", SpanKind.CLIENT, trace, task_id=delivery.task_id, delivery_id=delivery.id) as span:
        outcome = await deliver(use, webhook)
        if not outcome.delivered:
            tracing.fail(span, outcome.error or "refused")
    return _DeliveryAttempt(webhook, began_at, outcome)


def _record(
    connection: Connection, endpoint_id: str, attempts: Sequence[_DeliveryAttempt], now: datetime
) -> EndpointState | None:
    """Record the outcomes of a round and schedule the next. Return the endpoint's new state if the round stopped it."""
    endpoint = endpoints.lock(connection, endpoint_id)
    if endpoint is None:
        return None
    stopped = None
    if attempts:
        delivery_attempts.insert(connection, [_attempt_row(attempt) for attempt in attempts])
        deliveries.apply_changes(connection, [_delivery_change(attempt, now) for attempt in attempts])
        change = _endpoint_change(endpoint, attempts, now)
        endpoints.change(connection, endpoint_id, change)
        stopped = change.state if change.state is not endpoint.state else None
        if stopped is EndpointState.GONE:
            deliveries.end_waiting(connection, endpoint_id, "the endpoint answered 410 to another delivery", now)
    _schedule_next(connection, endpoint_id, now)
    return None if stopped is EndpointState.ACTIVE else stopped


def _delivery_change(attempt: _DeliveryAttempt, now: datetime) -> DeliveryChange:
    delivery, outcome = attempt.webhook.delivery, attempt.outcome
    tries = delivery.tries + 1
    wait = None if outcome.gone or delivery.event == TEST else webhook_wait(tries, outcome.retry_after)
    failed = DeliveryChange(
        id=delivery.id,
        was_tries=delivery.tries,
        was_due_at=delivery.due_at,
        state=DeliveryState.FAILED,
        tries=tries,
        detail=_detail(outcome),
        due_at=delivery.due_at,
        ended_at=now,
    )
    if outcome.delivered:
        return replace(failed, state=DeliveryState.DELIVERED, detail=None)
    if wait is None:
        return failed
    return replace(failed, state=DeliveryState.WAITING, due_at=now + wait + ids.jitter(wait / 10), ended_at=None)


def _detail(outcome: Outcome) -> str:
    known = {
        "unreachable": "the host cannot be reached",
        "timeout": "no answer within 15 seconds",
        "broken": "the connection broke before an answer arrived",
        "sealed": "the webhook secret cannot be decrypted: its key is no longer in FLUXHOOK_SECRET_KEYS",
    }
    return known.get(outcome.error or "") or f"answered with HTTP {outcome.http_status}"


def _endpoint_change(endpoint: Endpoint, attempts: Sequence[_DeliveryAttempt], now: datetime) -> EndpointChange:
    """Return the state of an endpoint after a round.

    A delivered test activates the endpoint. A failed test does not count as a failure: a test has no retry, so the
    failure would stay recorded until the next delivery succeeds, however much later.
    """
    unchanged = EndpointChange(
        endpoint.state, endpoint.stopped_at, endpoint.failures, endpoint.failing_since_at, endpoint.backoff_until
    )
    if any(attempt.outcome.gone for attempt in attempts):
        return replace(unchanged, state=EndpointState.GONE, stopped_at=endpoint.stopped_at or now)
    delivered = [attempt for attempt in attempts if attempt.outcome.delivered]
    if delivered:
        tested = any(attempt.webhook.delivery.event == TEST for attempt in delivered)
        is_active = tested or endpoint.state is EndpointState.ACTIVE
        return EndpointChange() if is_active else EndpointChange(endpoint.state, endpoint.stopped_at)
    failed = [attempt for attempt in attempts if attempt.webhook.delivery.event != TEST]
    if not failed:
        return unchanged
    failures, since = endpoint.failures + len(failed), endpoint.failing_since_at or now
    requested = [attempt.outcome.retry_after for attempt in failed if attempt.outcome.retry_after is not None]
    backoff = max(ENDPOINT.wait(failures), min(max(requested, default=timedelta()), _MAX_RETRY_AFTER))
    failing = replace(unchanged, failures=failures, failing_since_at=since, backoff_until=now + backoff)
    if endpoint.state is EndpointState.ACTIVE and now - since >= _PAUSE_AFTER:
        return replace(failing, state=EndpointState.PAUSED, stopped_at=now)
    return failing


def _schedule_next(connection: Connection, endpoint_id: str, now: datetime) -> None:
    endpoint = endpoints.get(connection, endpoint_id)
    if endpoint is None:
        return
    test_due = deliveries.next_due(connection, endpoint_id, tests=True)
    next_due = deliveries.next_due(connection, endpoint_id) if endpoint.state is EndpointState.ACTIVE else None
    if next_due is not None:
        next_due = max(next_due, endpoint.backoff_until or next_due)
    jobs.enqueue(
        connection, [NewJob(Step.NOTIFY, endpoint_id, max(due, now)) for due in (test_due, next_due) if due is not None]
    )


def _attempt_row(attempt: _DeliveryAttempt) -> delivery_attempts.DeliveryAttempt:
    outcome = attempt.outcome
    return delivery_attempts.DeliveryAttempt(
        id=ids.new_id("att", attempt.began_at),
        delivery_id=attempt.webhook.delivery.id,
        http_status=outcome.http_status,
        error=outcome.error,
        latency_ms=outcome.latency_ms,
        answer=outcome.answer,
        began_at=attempt.began_at,
    )


def _report(attempts: Sequence[_DeliveryAttempt], endpoint_id: str, stopped: EndpointState | None) -> None:
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
