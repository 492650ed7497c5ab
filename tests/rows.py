"""Rows as `submit` writes them, for tests that start from a later step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec

from sqlalchemy import delete, select, text, update

from app import jobs
from app.db import Connection
from app.db.engine.bulk import DeferredWrites
from app.db.queries import task_list
from app.db.queries.task_list import TaskFilter
from app.db.tables import applications, attempts, provider_accounts, slots, task_updates, tasks
from app.db.tables.attempts import NewAttempt
from app.db.tables.provider_accounts import ConfiguredAccount
from app.db.tables.tasks import NewTask
from app.jobs import Job, Step, sqlite
from app.rules.request import TaskRequest
from app.rules.task import Status

P = ParamSpec("P")
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def put_account(connection: Connection, /, account_id: str = "account", **limits: int) -> str:
    """Insert a provider account. Its limits are 24 slots, and 6 for Kontext Max, unless `limits` replace them."""
    overrides = {name.replace("_", "-"): limit for name, limit in limits.items()}
    limits = {"account": 24, "flux-kontext-max": 6} | overrides
    provider_accounts.put(connection, ConfiguredAccount(account_id, "bfl", limits))
    return account_id


def newest_tasks(connection: Connection, limit: int, **conditions: Any) -> Sequence[tasks.Task]:
    """Return tasks, newest first; `conditions` are members of a `TaskFilter`."""
    return task_list.page(connection, TaskFilter(**conditions), limit).tasks


def take_slot(connection: Connection, /, name: str = "1", number: int = 1, **changes: Any) -> None:
    """Give a slot to `task_NAME`, whatever its state, and even if it does not exist."""
    defaults = {"key_id": "key_admin", "model": "flux-kontext-pro", "account_id": "account"}
    row = {"task_id": f"task_{name}", "number": number, "taken_at": START, **defaults, **changes}
    slots.take(connection, [slots.TakenSlot(**row)])


def plan_task(
    connection: Connection, /, name: str = "1", at: datetime = START, signing_key_id: str = "ring", **changes: Any
) -> str:
    """Insert the task `task_NAME` and its planned attempt `sub_NAME`. Return the task's id.

    `changes`: values of any columns of the task.
    """
    values: dict[str, Any] = {
        "id": f"task_{name}",
        "key_id": "key_admin",
        "application_id": applications.id_of_key(changes.get("key_id", "key_admin")),
        "provider": "bfl",
        "account_id": "account",
        "model": "flux-kontext-pro",
        "request": TaskRequest({"prompt": "a red fox"}),
        "warnings": [],
        "priority": 0,
        "deadline_at": None,
        "dispatch_after_at": at,
        "attempt_id": f"sub_{name}",
        "created_at": at,
    }
    new = {member.name for member in fields(NewTask)}
    tasks.insert(connection, NewTask(**values | {name: value for name, value in changes.items() if name in new}))
    later = {name: value for name, value in changes.items() if name not in new}
    if later:
        connection.execute(update(tasks.tasks).where(tasks.tasks.c.id == f"task_{name}").values(later))
    plan_attempt(connection, f"sub_{name}", f"task_{name}", at, signing_key_id=signing_key_id)
    return f"task_{name}"


def plan_attempt(
    connection: Connection,
    attempt_id: str,
    task_id: str,
    at: datetime = START,
    number: int = 1,
    signing_key_id: str = "ring",
) -> None:
    attempts.plan(connection, NewAttempt(attempt_id, task_id, number, "bfl", signing_key_id, at))


def put_sent_task(connection: Connection, /, name: str = "1", at: datetime = START, **changes: Any) -> str:
    """Insert a task whose only attempt has been sent to the provider. Return the task's id."""
    task_id = plan_task(connection, name, at, **changes)
    task_updates.move(connection, task_id, Status.SUBMITTING, at)
    attempts.mark_sent(connection, f"sub_{name}", at, callback_requested=True)
    return task_id


WORKER = "1" * 32


@dataclass(frozen=True)
class StoredJob:
    """A job as stored, on either engine."""

    step: Step
    task_id: str
    state: str  # waiting, running or held
    run_at: datetime


_STATES = {"queued": "waiting", "picked": "running", "failed": "held"}


def stored_jobs(connection: Connection) -> list[StoredJob]:
    """Return all jobs, earliest due first."""
    if connection.dialect.name == "postgresql":
        query = "SELECT entrypoint, convert_from(payload, 'UTF8'), status::text, execute_after FROM pgqueuer"
        rows = [(step, task_id, _STATES[state], at) for step, task_id, state, at in connection.execute(text(query))]
    else:
        table = sqlite.jobs.c
        rows = [tuple(row) for row in connection.execute(select(table.step, table.task_id, table.state, table.run_at))]
    jobs_found = [StoredJob(Step(step), task_id, state, run_at) for step, task_id, state, run_at in rows]
    return sorted(jobs_found, key=lambda job: (job.run_at, job.step, job.task_id))


def drop_jobs(connection: Connection) -> None:
    """Delete all jobs, which the service itself never does."""
    statement = text("DELETE FROM pgqueuer") if connection.dialect.name == "postgresql" else delete(sqlite.jobs)
    connection.execute(statement)


def claim(connection: Connection, now: datetime, limit: int = 99) -> list[Job]:
    return jobs.claim(connection, WORKER, now, limit)


def write_now(
    connection: Connection, write: Callable[Concatenate[DeferredWrites, P], None], *args: P.args, **kwargs: P.kwargs
) -> None:
    """Call a function that defers its writes, and send them."""
    writes = DeferredWrites(connection)
    write(writes, *args, **kwargs)
    writes.send()
