"""Tell the application: deliver what is due at one endpoint, a few at once, and leave the next round.

A round belongs to one endpoint, so one that is dead keeps nobody waiting but itself. What is recorded of a try is
recorded after it: a process that dies in between tries again, and the receiver knows the delivery by its id.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
from opentelemetry.trace import SpanKind

from app import ids, jobs
from app.db import Connection
from app.db.tables import deliveries, delivery_attempts, endpoints, results, tasks
from app.db.tables.deliveries import TEST, Delivery
from app.db.tables.endpoints import Endpoint, EndpointState
from app.jobs import Step
from app.resources import Resources
from app.rules.backoff import ENDPOINT_REST, WEBHOOK_WAITS, webhook_wait
from app.telemetry import logs, metrics, tracing
from app.webhooks.delivery import BROKEN, SEALED, TIMEOUT, UNREACHABLE, Outcome, OutgoingWebhook, deliver

_AT_ONCE = 4  # deliveries of an endpoint; one while it fails
_AT_A_HOST = 8  # endpoints: each task may have an address of its own, and all of them lie on one dead host
_ASIDE = timedelta(seconds=5)
_LONGEST_REST = timedelta(hours=1)
_HOPELESS = sum(WEBHOOK_WAITS, timedelta())  # when the first delivery that failed has had all its tries

# Known from the start: a series that begins at 1 shows no rise.
for _kind in ("delivered", "refused", UNREACHABLE, TIMEOUT, BROKEN, SEALED):
    metrics.webhook_attempts.labels(_kind)
for _state in (EndpointState.PAUSED, EndpointState.GONE):
    metrics.endpoints_stopped.labels(_state)

log = logs.get("notify")


@dataclass(frozen=True, slots=True)
class _Tried:
    letter: OutgoingWebhook
    began_at: datetime
    outcome: Outcome


async def notify(use: Resources, endpoint_id: str) -> None:
    """Try what is due at an endpoint, and leave the job for what is due next."""
    found = await use.db.read(lambda connection: _read(connection, endpoint_id, use.now()))
    if found is None:
        return
    endpoint, letters = found
    host = httpx.URL(endpoint.url).netloc.decode()
    if letters and use.delivering[host] >= _AT_A_HOST:
        later = use.now() + _aside(use.now() - letters[0].delivery.due_at)
        await use.db.write(lambda connection: jobs.enqueue(connection, [(Step.NOTIFY, endpoint_id, later)]))
        return
    with _in_hand(use, host):
        tried = await asyncio.gather(*(_try(use, letter) for letter in letters))
    stopped = await use.db.write(lambda connection: _keep(connection, endpoint_id, tried, use.now()))
    _say(tried, endpoint_id, stopped)


def _aside(late: timedelta) -> timedelta:
    """For how long an endpoint of a crowded host is put aside: longer, the longer it has waited for its turn.

    Each look costs some statements. A host that hangs with ten thousand addresses would have ten thousand looks in the
    time of eight tries, and every other endpoint's turn would come behind them.
    """
    wait = min(max(_ASIDE, late / 2), ENDPOINT_REST.longest)
    return wait + ids.jitter(wait)


@contextmanager
def _in_hand(use: Resources, host: str) -> Generator[None]:
    """Count an endpoint among those of its host that are in hand; hosts with none are forgotten."""
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
    room = 1 if endpoint.failures else _AT_ONCE
    due = deliveries.due(connection, endpoint_id, now, room, tests=_only_tests(endpoint, now))
    return endpoint, [_letter(connection, each) for each in due]


def _only_tests(endpoint: Endpoint, now: datetime) -> bool:
    rests = endpoint.backoff_until is not None and endpoint.backoff_until > now
    return rests or endpoint.state is not EndpointState.ACTIVE


def _letter(connection: Connection, delivery: Delivery) -> OutgoingWebhook:
    if delivery.task_id is None:
        return OutgoingWebhook(delivery, None, None)
    result = results.of_tasks(connection, [delivery.task_id]).get(delivery.task_id)
    return OutgoingWebhook(delivery, tasks.get(connection, delivery.task_id), result)


async def _try(use: Resources, letter: OutgoingWebhook) -> _Tried:
    """Its 15 seconds begin when it has its turn among all that are sent at once."""
    async with use.sending.taken(1):
        return await _try_now(use, letter)


async def _try_now(use: Resources, letter: OutgoingWebhook) -> _Tried:
    delivery, began_at = letter.delivery, use.now()
    trace = letter.task.traceparent if letter.task else None
    with tracing.span("webhook", SpanKind.CLIENT, trace, task_id=delivery.task_id, delivery_id=delivery.id) as span:
        outcome = await deliver(use, letter)
        if not outcome.delivered:
            tracing.fail(span, outcome.error or "refused")
    return _Tried(letter, began_at, outcome)


def _keep(connection: Connection, endpoint_id: str, tried: Sequence[_Tried], now: datetime) -> EndpointState | None:
    """Record what came of a round and leave the next; the state to which it brought the endpoint to a stop, if so."""
    endpoint = endpoints.lock(connection, endpoint_id)
    if endpoint is None:
        return None
    stopped = None
    if tried:
        delivery_attempts.insert(connection, [_attempt(each) for each in tried])
        deliveries.conclude(connection, [_end(each, now) for each in tried])
        change = _standing(endpoint, tried, now)
        endpoints.change(connection, endpoint_id, **change)
        stopped = change["state"] if change["state"] is not endpoint.state else None
        if stopped is EndpointState.GONE:
            deliveries.end_waiting(connection, endpoint_id, "the endpoint answered 410 to another delivery", now)
    _leave_next(connection, endpoint_id, now)
    return None if stopped is EndpointState.ACTIVE else stopped


def _end(each: _Tried, now: datetime) -> dict[str, Any]:
    """What a delivery has come to by this try."""
    delivery, outcome = each.letter.delivery, each.outcome
    tries = delivery.tries + 1
    wait = None if outcome.gone or delivery.event == TEST else webhook_wait(tries, outcome.retry_after)
    begun = {"id": delivery.id, "was_tries": delivery.tries, "was_due_at": delivery.due_at}
    end = {**begun, "tries": tries, "detail": _detail(outcome), "due_at": delivery.due_at, "ended_at": now}
    if outcome.delivered:
        return {**end, "state": deliveries.DeliveryState.DELIVERED, "detail": None}
    if wait is None:
        return {**end, "state": deliveries.DeliveryState.FAILED}
    due_at = now + wait + ids.jitter(wait / 10)
    return {**end, "state": deliveries.DeliveryState.WAITING, "due_at": due_at, "ended_at": None}


def _detail(outcome: Outcome) -> str:
    known = {
        "unreachable": "the host cannot be reached",
        "timeout": "no answer in 15 seconds",
        "broken": "the connection broke before an answer",
        "sealed": "its secret cannot be read: the key it was sealed with has left FLUXHOOK_SECRET_KEYS",
    }
    return known.get(outcome.error or "") or f"answered with HTTP {outcome.http_status}"


def _standing(endpoint: Endpoint, tried: Sequence[_Tried], now: datetime) -> dict[str, Any]:
    """How an endpoint fares after a round. One that answers a test is sent to again; one that fails it fares no worse,
    because nothing follows a test: the failure would count until something arrives, however much later.
    """
    if any(each.outcome.gone for each in tried):
        return {"state": EndpointState.GONE, "stopped_at": endpoint.stopped_at or now}
    if any(each.outcome.delivered for each in tried):
        tested = any(each.outcome.delivered and each.letter.delivery.event == TEST for each in tried)
        state = EndpointState.ACTIVE if tested else endpoint.state
        stopped_at = None if state is EndpointState.ACTIVE else endpoint.stopped_at
        well = {"failures": 0, "failing_since_at": None, "backoff_until": None}
        return {"state": state, "stopped_at": stopped_at, **well}
    failed = [each for each in tried if each.letter.delivery.event != TEST]
    if not failed:
        return {"state": endpoint.state}
    failures, since = endpoint.failures + len(failed), endpoint.failing_since_at or now
    wishes = [each.outcome.retry_after for each in failed if each.outcome.retry_after is not None]
    rest = max(ENDPOINT_REST.wait(failures), min(max(wishes, default=timedelta()), _LONGEST_REST))
    pausing = endpoint.state is EndpointState.ACTIVE and now - since >= _HOPELESS
    return {
        "state": EndpointState.PAUSED if pausing else endpoint.state,
        "stopped_at": now if pausing else endpoint.stopped_at,
        "failures": failures,
        "failing_since_at": since,
        "backoff_until": now + rest,
    }


def _leave_next(connection: Connection, endpoint_id: str, now: datetime) -> None:
    endpoint = endpoints.get(connection, endpoint_id)
    if endpoint is None:
        return
    test_due = deliveries.next_due(connection, endpoint_id, tests=True)
    next_due = deliveries.next_due(connection, endpoint_id) if endpoint.state is EndpointState.ACTIVE else None
    if next_due is not None:
        next_due = max(next_due, endpoint.backoff_until or next_due)
    wanted = [(Step.NOTIFY, endpoint_id, max(due, now)) for due in (test_due, next_due) if due is not None]
    jobs.enqueue(connection, wanted)


def _attempt(each: _Tried) -> dict[str, Any]:
    outcome = each.outcome
    return {
        "id": ids.new_id("att", each.began_at),
        "delivery_id": each.letter.delivery.id,
        "http_status": outcome.http_status,
        "error": outcome.error,
        "latency_ms": outcome.latency_ms,
        "answer": outcome.answer,
        "began_at": each.began_at,
    }


def _say(tried: Sequence[_Tried], endpoint_id: str, stopped: EndpointState | None) -> None:
    for each in tried:
        delivery, outcome = each.letter.delivery, each.outcome
        kind = "delivered" if outcome.delivered else outcome.error or "refused"
        metrics.webhook_attempts.labels(kind).inc()
        named = {"delivery_id": delivery.id, "task_id": delivery.task_id, "endpoint_id": endpoint_id}
        log.info("delivery", outcome=kind, http_status=outcome.http_status, ms=outcome.latency_ms, **named)
    if stopped is not None:
        metrics.endpoints_stopped.labels(stopped).inc()
        log.warning("endpoint_stopped", endpoint_id=endpoint_id, state=stopped)
