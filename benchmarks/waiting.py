"""Tasks that wait in the queue of a database, in the two ways in which admission steps over many of them.

Half of them belong to an application that is at its limit of tasks in flight. The others belong to an application
whose model is served by one account only, which has no free slot. Each application has one task in flight, whose result
does not come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from app import clock, ids, jobs
from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import applications, provider_accounts, slots
from app.db.tables.applications import ApplicationChange, NewApplication
from app.db.tables.attempts import attempts
from app.db.tables.provider_accounts import ConfiguredAccount
from app.db.tables.slots import TakenSlot
from app.db.tables.tasks import tasks
from app.jobs import NewJob, Step
from app.rules.task import Outcome, Status

MODEL, OTHER_MODEL = "flux-kontext-pro", "flux-kontext-max"  # of the measured tasks, and of the full account
_AT_ONCE = 1000  # tasks of one transaction
_INTERVAL = timedelta(milliseconds=1)  # between two posts
_POLL_AFTER = timedelta(hours=1)  # until the reconcile job of a task in flight, which never runs here


@dataclass(frozen=True, slots=True)
class Crowd:
    """An application with many queued tasks, and the account that its task in flight has a slot of."""

    application_id: str
    key_id: str
    model: str
    account_id: str
    limits: Mapping[str, int]


def crowds(account_id: str, full_account_id: str) -> Sequence[Crowd]:
    """Return both applications, for an account of the measured model and one without a free slot."""
    return (
        Crowd("app_limited", "key_limited", MODEL, account_id, {"in_flight": 1}),
        Crowd("app_blocked", "key_blocked", OTHER_MODEL, full_account_id, {}),
    )


async def wait(database: Database, signing_key_id: str, both: Sequence[Crowd], count: int) -> None:
    """Add this many queued tasks, a half to each application, and the tasks in flight."""
    for crowd in both:
        await database.write(_begin, signing_key_id, crowd)
        for done in range(0, count // len(both), _AT_ONCE):
            await database.write(add_queued, signing_key_id, crowd, min(_AT_ONCE, count // len(both) - done))


def _begin(connection: Connection, signing_key_id: str, crowd: Crowd) -> None:
    now = clock.utc_now()
    provider_accounts.put(connection, ConfiguredAccount(crowd.account_id, "bfl", {"account": 1}))
    values = ApplicationChange(name=crowd.application_id, limits=crowd.limits)
    applications.insert(connection, NewApplication(crowd.application_id, now, values))
    (task_id,) = _insert(connection, signing_key_id, crowd, 1, Status.SUBMITTED)
    slots.take(connection, [TakenSlot(crowd.account_id, 1, task_id, crowd.key_id, crowd.model, now)])
    jobs.enqueue(connection, [NewJob(Step.RECONCILE, task_id, now + _POLL_AFTER)])


def add_queued(connection: Connection, signing_key_id: str, crowd: Crowd, count: int) -> None:
    """Add this many queued tasks, which are newer than all others."""
    _insert(connection, signing_key_id, crowd, count, Status.QUEUED)


def _insert(connection: Connection, signing_key_id: str, crowd: Crowd, count: int, status: Status) -> list[str]:
    now = clock.utc_now()
    born = [now - _INTERVAL * before for before in reversed(range(count))]
    rows = [(ids.new_id("task", at), ids.new_id("sub", at), at) for at in born]
    connection.execute(tasks.insert(), [_task(crowd, status, *row) for row in rows])
    connection.execute(attempts.insert(), [_attempt(signing_key_id, status, *row) for row in rows])
    return [task_id for task_id, _, _ in rows]


def _task(crowd: Crowd, status: Status, task_id: str, attempt_id: str, at: datetime) -> dict[str, Any]:
    is_sent = status is Status.SUBMITTED
    return {
        "id": task_id,
        "key_id": crowd.key_id,
        "application_id": crowd.application_id,
        "provider": "bfl",
        "account_id": crowd.account_id,
        "model": crowd.model,
        "status": status,
        "request": {"prompt": "the same square at dusk", "images": []},
        "warnings": [],
        "priority": 0,
        "dispatch_after_at": at,
        "attempt_id": attempt_id,
        "tries": 0,
        "cost": 4.0 if is_sent else None,
        "created_at": at,
        "submitting_at": at if is_sent else None,
        "submitted_at": at if is_sent else None,
    }


def _attempt(signing_key_id: str, status: Status, task_id: str, attempt_id: str, at: datetime) -> dict[str, Any]:
    is_sent = status is Status.SUBMITTED
    provider_id = f"provider-{attempt_id}"
    return {
        "id": attempt_id,
        "task_id": task_id,
        "number": 1,
        "provider": "bfl",
        "signing_key_id": signing_key_id,
        "outcome": Outcome.ACCEPTED if is_sent else Outcome.PLANNED,
        "callback_requested": is_sent,
        "provider_id": provider_id if is_sent else None,
        "polling_url": f"https://api.eu1.bfl.ai/v1/get_result?id={provider_id}" if is_sent else None,
        "cost": 4.0 if is_sent else None,
        "planned_at": at,
        "sent_at": at if is_sent else None,
        "answered_at": at if is_sent else None,
    }
