"""Rows as `submit` leaves them, for tests that begin in the middle."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select, text

from app import jobs
from app.db import Connection
from app.db.tables import attempts, provider_accounts, tasks
from app.jobs import Job, Step, sqlite
from app.rules.task import Status

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def put_account(connection: Connection, account_id: str = "account", **limits: int) -> str:
    """An account of the provider: 24 tasks in flight in all and 6 of Kontext Max, unless a test says otherwise."""
    given = {"account": 24, "flux-kontext-max": 6} | {name.replace("_", "-"): most for name, most in limits.items()}
    provider_accounts.put(connection, account_id, "bfl", given)
    return account_id


def hold_slot(connection: Connection, name: str = "1", number: int = 1, **changes: Any) -> None:
    """Have `task_NAME` hold a slot, whatever else is true of it."""
    given = {"key_id": "key_admin", "model": "flux-kontext-pro", "account_id": "account"}
    row = {"task_id": f"task_{name}", "number": number, "taken_at": START, **given, **changes}
    provider_accounts.take(connection, [row])


def plan_task(
    connection: Connection, name: str = "1", at: datetime = START, signing_key_id: str = "ring", **changes: Any
) -> str:
    """The task `task_NAME` and its first attempt `sub_NAME`, nothing sent yet; returns the task's id."""
    given = {
        "id": f"task_{name}",
        "key_id": "key_admin",
        "provider": "bfl",
        "account_id": "account",
        "model": "flux-kontext-pro",
        "status": Status.QUEUED,
        "request": {"prompt": "a red fox", "images": []},
        "warnings": [],
        "priority": 0,
        "dispatch_after_at": at,
        "submission_id": f"sub_{name}",
        "created_at": at,
    }
    tasks.insert(connection, **{**given, **changes})
    plan_attempt(connection, f"sub_{name}", f"task_{name}", at, signing_key_id=signing_key_id)
    return f"task_{name}"


def plan_attempt(
    connection: Connection,
    submission_id: str,
    task_id: str,
    at: datetime = START,
    number: int = 1,
    signing_key_id: str = "ring",
) -> None:
    attempts.plan(
        connection,
        id=submission_id,
        task_id=task_id,
        number=number,
        provider="bfl",
        signing_key_id=signing_key_id,
        planned_at=at,
    )


def ask(connection: Connection, name: str = "1", at: datetime = START, **changes: Any) -> str:
    """A task whose only attempt is on its way to the provider."""
    task_id = plan_task(connection, name, at, **changes)
    tasks.move(connection, task_id, Status.SUBMITTING, at)
    attempts.mark_sent(connection, f"sub_{name}", at, callback_requested=True)
    return task_id


WORKER = "1" * 32


@dataclass(frozen=True)
class Left:
    """A job as the engine of the database keeps it."""

    step: Step
    task_id: str
    state: str  # waiting, running or held
    run_at: datetime


_STATES = {"queued": "waiting", "picked": "running", "failed": "held"}


def jobs_left(connection: Connection) -> list[Left]:
    """All jobs there are, in the order in which they fall due."""
    if connection.dialect.name == "postgresql":
        kept = "SELECT entrypoint, convert_from(payload, 'UTF8'), status::text, execute_after FROM pgqueuer"
        rows = [(step, task_id, _STATES[state], at) for step, task_id, state, at in connection.execute(text(kept))]
    else:
        table = sqlite.jobs.c
        rows = [tuple(row) for row in connection.execute(select(table.step, table.task_id, table.state, table.run_at))]
    found = [Left(Step(step), task_id, state, run_at) for step, task_id, state, run_at in rows]
    return sorted(found, key=lambda each: (each.run_at, each.step, each.task_id))


def drop_jobs(connection: Connection) -> None:
    """All jobs are gone, as no event of ours could ever bring about."""
    table = text("DELETE FROM pgqueuer") if connection.dialect.name == "postgresql" else delete(sqlite.jobs)
    connection.execute(table)


def claim(connection: Connection, now: datetime, limit: int = 99) -> list[Job]:
    return jobs.claim(connection, WORKER, now, limit)
