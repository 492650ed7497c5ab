"""Record the outcomes of a round of deliveries at one endpoint, and schedule the next round."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from app import ids, jobs
from app.db import Connection
from app.db.tables import deliveries, delivery_attempts, endpoints
from app.db.tables.deliveries import TEST, DeliveryChange, DeliveryState
from app.db.tables.endpoints import Endpoint, EndpointChange, EndpointState
from app.jobs import NewJob, Step
from app.rules.backoff import ENDPOINT, WEBHOOK_SCHEDULE, webhook_wait
from app.webhooks.delivery import Outcome, OutgoingWebhook

_MAX_RETRY_AFTER = timedelta(hours=1)  # for the backoff of the endpoint
_PAUSE_AFTER = WEBHOOK_SCHEDULE  # by then the first failed delivery has used all its tries


@dataclass(frozen=True, slots=True)
class SentWebhook:
    """A webhook that was sent, or could not be, before the attempt is recorded as a row."""

    webhook: OutgoingWebhook
    began_at: datetime
    outcome: Outcome


def record(
    connection: Connection, endpoint_id: str, attempts: Sequence[SentWebhook], now: datetime
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
        if change != _known_state(endpoint):
            endpoints.change(connection, endpoint_id, change)
        stopped = change.state if change.state is not endpoint.state else None
        endpoint = replace(endpoint, **asdict(change))
        if stopped is EndpointState.GONE:
            deliveries.end_waiting(connection, endpoint_id, "the endpoint answered 410 to another delivery", now)
    _schedule_next(connection, endpoint, now)
    return None if stopped is EndpointState.ACTIVE else stopped


def _delivery_change(attempt: SentWebhook, now: datetime) -> DeliveryChange:
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


def _endpoint_change(endpoint: Endpoint, attempts: Sequence[SentWebhook], now: datetime) -> EndpointChange:
    """Return the state of an endpoint after a round.

    A delivered test activates the endpoint. A failed test does not count as a failure: a test has no retry, so the
    failure would stay recorded until the next delivery succeeds, however much later.
    """
    unchanged = _known_state(endpoint)
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


def _known_state(endpoint: Endpoint) -> EndpointChange:
    return EndpointChange(
        endpoint.state, endpoint.stopped_at, endpoint.failures, endpoint.failing_since_at, endpoint.backoff_until
    )


def _schedule_next(connection: Connection, endpoint: Endpoint, now: datetime) -> None:
    is_active = endpoint.state is EndpointState.ACTIVE
    found = [deliveries.next_due(connection, endpoint.id)] if is_active else []
    if endpoint.backoff_until is not None:
        found = [max(due, endpoint.backoff_until) for due in found if due is not None]
    if not is_active or endpoint.backoff_until is not None:  # tests do not wait
        found.append(deliveries.next_due(connection, endpoint.id, tests=True))
    due_at = [max(due, now) for due in found if due is not None]
    jobs.enqueue(connection, [NewJob(Step.NOTIFY, endpoint.id, at) for at in due_at])


def _attempt_row(attempt: SentWebhook) -> delivery_attempts.DeliveryAttempt:
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
