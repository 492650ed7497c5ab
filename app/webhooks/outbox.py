"""Plan what an application is to be told, in the transaction that gives the reason, with the job that will tell it."""

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

_GONE = "the endpoint has answered 410: it wants nothing any more"


def plan(connection: Connection, reached: Sequence[tuple[str, Status]], now: datetime) -> None:
    """Plan deliveries for those of these tasks, by id and new status, whose submitter wants to be told of it."""
    interesting = [(task_id, status) for task_id, status in reached if status.final or status is Status.SUBMITTED]
    found = tasks.told(connection, {task_id for task_id, _ in interesting})
    wanted = [(found[task_id], status) for task_id, status in interesting if _wants(found.get(task_id), status)]
    if not wanted:
        return
    at = _endpoints(connection, {(task.key_id, task.webhook_url or "") for task, _ in wanted}, now)
    kept = results.of_tasks(connection, [task.id for task, status in wanted if status is Status.STORED])
    rows = []
    for task, status in wanted:
        said = _said(task, status, kept, now)
        rows.append(_row(at[task.key_id, task.webhook_url or ""], task.id, status, task.webhook_form, said, now))
    deliveries.insert(connection, rows)
    wake(connection, at.values(), now)


def plan_test(
    connection: Connection, delivery_id: str, key_id: str, url: str, form: str, secret: str | None, now: datetime
) -> None:
    """Plan one delivery that is about nothing, to see whether it arrives; also at an endpoint that is paused."""
    at = _endpoints(connection, {(key_id, url)}, now)[key_id, url]
    said = payload.test_form(form, delivery_id, now)
    row = {
        "id": delivery_id,
        "secret": secret,
        "state": deliveries.DeliveryState.WAITING,
        "detail": None,
        "ended_at": None,
    }
    deliveries.insert(connection, [{**_row(at, None, deliveries.TEST, form, said, now), **row}])
    jobs.enqueue(connection, [(Step.NOTIFY, at.id, now)])


def wake(connection: Connection, at: Iterable[Endpoint], now: datetime) -> None:
    """Leave the job that delivers, for each endpoint that may be sent to."""
    active = sorted(each.id for each in at if each.state is EndpointState.ACTIVE)
    jobs.enqueue(connection, [(Step.NOTIFY, endpoint_id, now) for endpoint_id in active])


def _wants(task: Task | None, status: Status) -> bool:
    return task is not None and (status.final or status in (task.webhook_events or ()))


def _endpoints(
    connection: Connection, wanted: set[tuple[str, str]], now: datetime
) -> Mapping[tuple[str, str], Endpoint]:
    rows = [{"id": ids.new_id("ep", now), "key_id": key_id, "url": url, "created_at": now} for key_id, url in wanted]
    endpoints.ensure(connection, rows)
    return endpoints.named(connection, wanted)


def _said(task: Task, status: Status, kept: Mapping[str, results.Result], now: datetime) -> dict[str, Any]:
    if task.webhook_form == "event":
        return payload.event_form(task, kept.get(task.id), status, now)
    return payload.provider_form(task, status, now)


def _row(
    at: Endpoint, task_id: str | None, event: str, form: str | None, said: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    gone = at.state is EndpointState.GONE
    return {
        "id": ids.new_id("dlv", now),
        "endpoint_id": at.id,
        "task_id": task_id,
        "event": event,
        "form": form or "provider",
        "payload": said,
        "secret": None,
        "state": deliveries.DeliveryState.FAILED if gone else deliveries.DeliveryState.WAITING,
        "detail": _GONE if gone else None,
        "planned_at": now,
        "due_at": now,
        "ended_at": now if gone else None,
    }
