"""The outbox: store deliveries and their jobs in the transaction of the change that they report."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from app import ids, jobs
from app.db import Connection
from app.db.tables import deliveries, endpoints, results, tasks
from app.db.tables.applications import Application
from app.db.tables.deliveries import TEST, DeliveryState, NewDelivery
from app.db.tables.endpoints import Endpoint, EndpointName, EndpointState, NewEndpoint
from app.db.tables.events import BUDGET_WARNING
from app.db.tables.tasks import Task
from app.jobs import NewJob, Step
from app.rules.budget import BudgetWarning
from app.rules.task import Status
from app.webhooks import payload
from app.webhooks.payload import Payload

_GONE = "the endpoint has answered 410 and receives no more webhooks"


class Reached(NamedTuple):
    """A task and its new status."""

    task_id: str
    status: Status


def plan(connection: Connection, moves: Sequence[Reached], now: datetime) -> None:
    """Store deliveries for the tasks that subscribe to their new status."""
    candidates = [move for move in moves if move.status.final or move.status is Status.SUBMITTED]
    found = tasks.with_webhook(connection, {move.task_id for move in candidates})
    events = [
        (found[move.task_id], move.status) for move in candidates if _subscribes(found.get(move.task_id), move.status)
    ]
    if not events:
        return
    targets = _endpoints(connection, {_endpoint_name(task) for task, _ in events}, now)
    shown = [task.id for task, status in events if status is Status.STORED and task.webhook_form == "event"]
    stored = results.of_tasks(connection, shown)
    rows = []
    for task, status in events:
        message = _payload(task, status, stored, now)
        rows.append(_row(targets[_endpoint_name(task)], task.id, status, task.webhook_form, message, now))
    deliveries.insert(connection, rows)
    enqueue_rounds(connection, targets.values(), now)


def plan_test(
    connection: Connection, delivery_id: str, owner: str, url: str, form: str, secret: str | None, now: datetime
) -> None:
    """Store a test delivery of the application `owner`, which reports no task. A paused endpoint gets it too."""
    name = EndpointName(owner, url)
    endpoint = _endpoints(connection, {name}, now)[name]
    test = NewDelivery(
        id=delivery_id,
        endpoint_id=endpoint.id,
        task_id=None,
        event=TEST,
        form=form,
        payload=payload.test_form(form, delivery_id, now),
        planned_at=now,
        due_at=now,
        secret=secret,
    )
    deliveries.insert(connection, [test])
    jobs.enqueue(connection, [NewJob(Step.NOTIFY, endpoint.id, now)])


def plan_budget_warning(
    connection: Connection, application: Application, warning: BudgetWarning, now: datetime
) -> None:
    """Store a delivery of this warning to the default webhook of the application, if it has one.

    The secret is copied as the application has it sealed.
    """
    if application.webhook_url is None:
        return
    name = EndpointName(application.id, application.webhook_url)
    targets = _endpoints(connection, {name}, now)
    delivery_id, form = ids.new_id("dlv", now), application.webhook_form or "provider"
    message = payload.budget_form(form, delivery_id, warning, now)
    row = _row(targets[name], None, BUDGET_WARNING, form, message, now)
    deliveries.insert(connection, [replace(row, id=delivery_id, secret=application.webhook_secret)])
    enqueue_rounds(connection, targets.values(), now)


def enqueue_rounds(connection: Connection, targets: Iterable[Endpoint], now: datetime) -> None:
    """Enqueue the NOTIFY job of each endpoint that is active."""
    active = sorted(endpoint.id for endpoint in targets if endpoint.state is EndpointState.ACTIVE)
    jobs.enqueue(connection, [NewJob(Step.NOTIFY, endpoint_id, now) for endpoint_id in active])


def _subscribes(task: Task | None, status: Status) -> bool:
    return task is not None and (status.final or status in (task.webhook_events or ()))


def _endpoint_name(task: Task) -> EndpointName:
    return EndpointName(task.application_id, task.webhook_url or "")


def _endpoints(
    connection: Connection, names: Collection[EndpointName], now: datetime
) -> Mapping[EndpointName, Endpoint]:
    """Return the endpoints with these names. One that retention deletes at this moment is created again."""
    found = endpoints.by_name(connection, names)
    while missing := set(names) - found.keys():
        rows = [NewEndpoint(ids.new_id("ep", now), name.application_id, name.url, now) for name in missing]
        endpoints.ensure(connection, rows)
        found |= endpoints.by_name(connection, missing)
    return found


def _payload(task: Task, status: Status, stored: Mapping[str, results.Result], now: datetime) -> Payload:
    if task.webhook_form == "event":
        return payload.event_form(task, stored.get(task.id), status, now)
    return payload.provider_form(task, status, now)


def _row(
    endpoint: Endpoint, task_id: str | None, event: str, form: str | None, message: Payload, now: datetime
) -> NewDelivery:
    gone = endpoint.state is EndpointState.GONE
    return NewDelivery(
        id=ids.new_id("dlv", now),
        endpoint_id=endpoint.id,
        task_id=task_id,
        event=event,
        form=form or "provider",
        payload=payload.with_prompt(message, None),
        planned_at=now,
        due_at=now,
        state=DeliveryState.FAILED if gone else DeliveryState.WAITING,
        detail=_GONE if gone else None,
        ended_at=now if gone else None,
    )
