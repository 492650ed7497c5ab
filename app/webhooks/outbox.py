"""The outbox: store deliveries and their jobs in the transaction of the change that they report."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from app import ids, jobs
from app.db import Connection
from app.db.tables import deliveries, endpoints, results, tasks
from app.db.tables.endpoints import Endpoint, EndpointState
from app.db.tables.tasks import Task
from app.jobs import Step
from app.rules.task import Status
from app.webhooks import payload

_GONE = "the endpoint has answered 410 and receives no more webhooks"


def plan(connection: Connection, reached: Sequence[tuple[str, Status]], now: datetime) -> None:
    """Store deliveries for the tasks that subscribe to their new status. `reached`: pairs of task id and new status."""
    candidates = [(task_id, status) for task_id, status in reached if status.final or status is Status.SUBMITTED]
    found = tasks.told(connection, {task_id for task_id, _ in candidates})
    events = [(found[task_id], status) for task_id, status in candidates if _subscribes(found.get(task_id), status)]
    if not events:
        return
    targets = _endpoints(connection, {(task.key_id, task.webhook_url or "") for task, _ in events}, now)
    stored = results.of_tasks(connection, [task.id for task, status in events if status is Status.STORED])
    rows = []
    for task, status in events:
        message = _payload(task, status, stored, now)
        endpoint = targets[task.key_id, task.webhook_url or ""]
        rows.append(_row(endpoint, task.id, status, task.webhook_form, message, now))
    deliveries.insert(connection, rows)
    wake(connection, targets.values(), now)


def plan_test(
    connection: Connection, delivery_id: str, key_id: str, url: str, form: str, secret: str | None, now: datetime
) -> None:
    """Store a test delivery, which reports no task. It is also sent to an endpoint that is paused."""
    endpoint = _endpoints(connection, {(key_id, url)}, now)[key_id, url]
    message = payload.test_form(form, delivery_id, now)
    test = {
        "id": delivery_id,
        "secret": secret,
        "state": deliveries.DeliveryState.WAITING,
        "detail": None,
        "ended_at": None,
    }
    deliveries.insert(connection, [{**_row(endpoint, None, deliveries.TEST, form, message, now), **test}])
    jobs.enqueue(connection, [(Step.NOTIFY, endpoint.id, now)])


def wake(connection: Connection, targets: Iterable[Endpoint], now: datetime) -> None:
    """Enqueue the NOTIFY job of each endpoint that is active."""
    active = sorted(endpoint.id for endpoint in targets if endpoint.state is EndpointState.ACTIVE)
    jobs.enqueue(connection, [(Step.NOTIFY, endpoint_id, now) for endpoint_id in active])


def _subscribes(task: Task | None, status: Status) -> bool:
    return task is not None and (status.final or status in (task.webhook_events or ()))


def _endpoints(
    connection: Connection, names: set[tuple[str, str]], now: datetime
) -> Mapping[tuple[str, str], Endpoint]:
    rows = [{"id": ids.new_id("ep", now), "key_id": key_id, "url": url, "created_at": now} for key_id, url in names]
    endpoints.ensure(connection, rows)
    return endpoints.named(connection, names)


def _payload(task: Task, status: Status, stored: Mapping[str, results.Result], now: datetime) -> dict[str, Any]:
    if task.webhook_form == "event":
        return payload.event_form(task, stored.get(task.id), status, now)
    return payload.provider_form(task, status, now)


def _row(
    endpoint: Endpoint, task_id: str | None, event: str, form: str | None, message: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    gone = endpoint.state is EndpointState.GONE
    return {
        "id": ids.new_id("dlv", now),
        "endpoint_id": endpoint.id,
        "task_id": task_id,
        "event": event,
        "form": form or "provider",
        "payload": message,
        "secret": None,
        "state": deliveries.DeliveryState.FAILED if gone else deliveries.DeliveryState.WAITING,
        "detail": _GONE if gone else None,
        "planned_at": now,
        "due_at": now,
        "ended_at": now if gone else None,
    }
