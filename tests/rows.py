"""Rows as `submit` leaves them, for tests that begin in the middle."""

from datetime import UTC, datetime
from typing import Any

from app.record import Connection, submissions, tasks
from app.task import Status

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def plan_task(connection: Connection, name: str = "1", at: datetime = START, **changes: Any) -> str:
    """The task `task_NAME` and its first attempt `sub_NAME`, nothing sent yet; returns the task's id."""
    given = {
        "id": f"task_{name}",
        "key_id": "key_admin",
        "provider": "bfl",
        "model": "flux-kontext-pro",
        "status": Status.QUEUED,
        "request": {"prompt": "a red fox", "images": []},
        "warnings": [],
        "submission_id": f"sub_{name}",
        "created_at": at,
    }
    tasks.insert(connection, **{**given, **changes})
    plan_attempt(connection, f"sub_{name}", f"task_{name}", at)
    return f"task_{name}"


def plan_attempt(
    connection: Connection, submission_id: str, task_id: str, at: datetime = START, number: int = 1
) -> None:
    submissions.plan(
        connection,
        id=submission_id,
        task_id=task_id,
        number=number,
        provider="bfl",
        ring_key="ring",
        planned_at=at,
    )


def ask(connection: Connection, name: str = "1", at: datetime = START, **changes: Any) -> str:
    """A task whose only attempt is on its way to the provider."""
    task_id = plan_task(connection, name, at, **changes)
    tasks.move(connection, task_id, Status.SUBMITTING, at)
    submissions.mark_asked(connection, f"sub_{name}", at)
    return task_id
