"""Responses with a task: at once, or with `Prefer: wait=N` (RFC 7240) as soon as the task is final."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

from fastapi import Header
from fastapi.responses import JSONResponse

from app.db import Connection
from app.db.queries import queue
from app.db.tables import provider_accounts, results, tasks
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.errors import NotFound, Unavailable
from app.resources import Resources
from app.rules.task import Status
from app.web.feed import Ended, EventFilter, Feed
from app.web.schemas.tasks import QueueView, TaskView, task_view

MAX_WAIT_S = 60
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d+)"?\s*(?=$|[,;])', re.IGNORECASE)

Prefer = Annotated[
    str | None,
    Header(description="`wait=N`: respond as soon as the task is final, or after N seconds (at most 60)."),
]


async def read_with_result(use: Resources, task_id: str) -> tuple[Task, Result | None]:
    """Return a task and its image, or None for a task without one. Raises NotFound."""

    def read(connection: Connection) -> tuple[Task | None, Result | None]:
        return tasks.get(connection, task_id), results.of_tasks(connection, [task_id]).get(task_id)

    task, result = await use.db.read(read)
    if task is None:
        raise NotFound("there is no such task")
    return task, result


def task_views(connection: Connection, rows: Sequence[Task]) -> list[TaskView]:
    """Return the views of these tasks, in their order, with their images and their positions in the queue."""
    images = results.of_tasks(connection, [task.id for task in rows if task.status is Status.STORED])
    queued = _queue_views(connection, [task for task in rows if task.status is Status.QUEUED])
    return [task_view(task, images.get(task.id), queued.get(task.id)) for task in rows]


async def wait_for_task(use: Resources, feed: Feed, task_id: str, prefer: str | None = None) -> TaskView:
    """Return the task as soon as it is final, the wait is over, the service stops or the database is unavailable.

    Raises NotFound, and Unavailable if the first read fails. A later failure returns the task as last read: with an
    error, the client would post a recorded task again.
    """
    ends_at = asyncio.get_running_loop().time() + wait_seconds(prefer)
    task = await _read(use, task_id)
    if task.status.final or not wait_seconds(prefer):
        return task
    try:
        async with feed.listen(None, EventFilter(task_id)) as listener:
            # Each read comes after the listener has joined, so no change after the read is missed.
            while not (task := await _read(use, task_id)).status.final:
                left = ends_at - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                await listener.next(left)
    except (Ended, Unavailable):
        with suppress(Unavailable):
            task = await _read(use, task_id)  # it may have changed just before the service stopped
    return task


async def _read(use: Resources, task_id: str) -> TaskView:
    task = await use.db.read(read_task_view, task_id)
    if task is None:
        raise NotFound("there is no such task")
    return task


def read_task_view(connection: Connection, task_id: str) -> TaskView | None:
    """Return the view of one task, or None if there is no such task."""
    task = tasks.get(connection, task_id)
    return None if task is None else task_views(connection, [task])[0]


def wait_seconds(prefer: str | None) -> int:
    """Return N of `wait=N` in a Prefer header, at most 60; 0 without one."""
    match = _WAIT.search(prefer or "")
    # Cut to nine digits: Python refuses to convert thousands of digits.
    return min(int(match[1].lstrip("0")[:9] or "0"), MAX_WAIT_S) if match else 0


def answer(task: TaskView, status: HTTPStatus, prefer: str | None, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(task.model_dump(mode="json"), status, {**headers, **preference_applied(prefer)})


def preference_applied(prefer: str | None) -> dict[str, str]:
    """Return the header `Preference-Applied`, or no header without `wait=N`."""
    return {"preference-applied": f"wait={wait_seconds(prefer)}"} if wait_seconds(prefer) else {}


def _queue_views(connection: Connection, queued: Sequence[Task]) -> dict[str, QueueView]:
    """Return the queue views of queued tasks by id; a task that has a slot already is left out."""
    positions = queue.positions(connection, [task.id for task in queued]) if queued else {}
    accounts = {
        account_id: provider_accounts.get(connection, account_id) for account_id in {task.account_id for task in queued}
    }
    views = {}
    for task in queued:
        account = accounts[task.account_id]
        if task.id in positions:
            views[task.id] = QueueView(
                position=positions[task.id],
                paused_until_at=account and account.paused_until_at,
                pause_reason=account and account.pause_reason,
            )
    return views
