"""Responses with a task: at once, or with `Prefer: wait=N` (RFC 7240) as soon as the task is final."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

from fastapi import Header
from fastapi.responses import JSONResponse

from app import jobs
from app.db import Connection
from app.db.queries import queue
from app.db.tables import attempts, delivery_attempts, downloads, evidence, provider_accounts, results, tasks
from app.db.tables.provider_accounts import Account
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.errors import NotFound, Unauthorized, Unavailable
from app.resources import Connections, Resources
from app.rules.task import Status
from app.web.auth import Caller
from app.web.feed import REVOKED, Feed
from app.web.listener import Ended, EventFilter, Revoked
from app.web.schemas.tasks import QueueView, TaskView, task_view
from app.web.schemas.timeline import STEPS, Timeline, timeline_view

MAX_WAIT_S = 60
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d+)"?\s*(?=$|[,;])', re.IGNORECASE)

Prefer = Annotated[
    str | None,
    Header(description="`wait=N`: respond as soon as the task is final, or after N seconds (at most 60)."),
]


async def read_with_result(use: Connections, task_id: str, owner: str | None) -> tuple[Task, Result | None]:
    """Return a task and its image, or None for a task without one.

    `owner`: the application of the caller; None sees the tasks of all. Raises NotFound, also for a task of another.
    """

    def read(connection: Connection) -> tuple[Task | None, Result | None]:
        return tasks.get_owned(connection, task_id, owner), results.of_tasks(connection, [task_id]).get(task_id)

    task, result = await use.db.read(read)
    if task is None:
        raise NotFound("there is no such task")
    return task, result


def task_views(connection: Connection, rows: Sequence[Task]) -> list[TaskView]:
    """Return the views of these tasks, in their order, with their images and their positions in the queue."""
    images = results.of_tasks(connection, [task.id for task in rows if task.status is Status.STORED])
    queued = _queue_views(connection, [task for task in rows if task.status is Status.QUEUED])
    return [task_view(task, images.get(task.id), queued.get(task.id)) for task in rows]


async def wait_for_task(
    use: Resources, feed: Feed, caller: Caller, task_id: str, prefer: str | None = None
) -> TaskView:
    """Return the task after the wait that the header asks for. See `wait_until_final`."""
    return await wait_until_final(use, feed, caller, task_id, wait_seconds(prefer))


async def wait_until_final(use: Resources, feed: Feed, caller: Caller, task_id: str, seconds: float) -> TaskView:
    """Return the task as soon as it is final, the wait is over, the service stops or the database is unavailable.

    Raises NotFound, also for a task that the caller may not see, Unauthorized once its key is revoked, and Unavailable
    if the first read fails. A later failure returns the task as last read: with an error, the client would post a
    recorded task again.
    """
    owner = caller.owner
    ends_at = asyncio.get_running_loop().time() + seconds
    task = await _read(use, task_id, owner)
    if task.status.final or seconds <= 0:
        return task
    try:
        async with feed.listen(None, EventFilter(task_id, owner=owner), key_id=caller.key_id) as listener:
            # Each read comes after the listener has joined, so no change after the read is missed.
            while not (task := await _read(use, task_id, owner)).status.final:
                left = ends_at - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                await listener.next(left)
    except Revoked as error:
        raise Unauthorized(REVOKED) from error
    except (Ended, Unavailable):
        with suppress(Unavailable):
            task = await _read(use, task_id, owner)  # it may have changed just before the service stopped
    return task


async def _read(use: Connections, task_id: str, owner: str | None) -> TaskView:
    task = await use.db.read(read_task_view, task_id, owner)
    if task is None:
        raise NotFound("there is no such task")
    return task


def read_task_view(connection: Connection, task_id: str, owner: str | None) -> TaskView | None:
    """Return the view of one task, or None if there is no such task, or not of this owner."""
    task = tasks.get_owned(connection, task_id, owner)
    return None if task is None else task_views(connection, [task])[0]


def read_timeline(connection: Connection, task_id: str, owner: str | None) -> Timeline | None:
    """Return the timeline of one task, or None if there is no such task, or not of this owner."""
    task = tasks.get_owned(connection, task_id, owner)
    if task is None:
        return None
    return timeline_view(
        task,
        attempts.of_task(connection, task_id),
        evidence.of_task(connection, task_id),
        downloads.of_task(connection, task_id),
        delivery_attempts.summaries_of_task(connection, task_id),
        jobs.planned(connection, task_id, STEPS),
    )


def wait_seconds(prefer: str | None) -> int:
    """Return N of `wait=N` in a Prefer header, at most 60; 0 without one."""
    match = _WAIT.search(prefer or "")
    # Cut to nine digits: Python refuses to convert thousands of digits.
    return min(int(match[1].lstrip("0")[:9] or "0"), MAX_WAIT_S) if match else 0


def returns_representation(prefer: str | None) -> bool:
    """Whether a Prefer header asks for the result of a change in the answer."""
    return any(part.strip().lower() == "return=representation" for part in re.split("[,;]", prefer or ""))


def answer(task: TaskView, status: HTTPStatus, prefer: str | None, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(task.model_dump(mode="json"), status, {**headers, **preference_applied(prefer)})


def preference_applied(prefer: str | None) -> dict[str, str]:
    """Return the header `Preference-Applied`, or no header without `wait=N`."""
    return {"preference-applied": f"wait={wait_seconds(prefer)}"} if wait_seconds(prefer) else {}


def _queue_views(connection: Connection, queued: Sequence[Task]) -> dict[str, QueueView]:
    """Return the queue views of queued tasks by id; a task that has a slot already is left out."""
    positions = queue.positions(connection, [task.id for task in queued]) if queued else {}
    accounts = provider_accounts.list_configured(connection) if positions else []
    views = {}
    for task in queued:
        if task.id in positions:
            paused = _pause_of([account for account in accounts if account.may_take(task.model, task.region)])
            views[task.id] = QueueView(
                position=positions[task.id],
                paused_until_at=paused and paused.paused_until_at,
                pause_reason=paused and paused.pause_reason,
            )
    return views


def _pause_of(accounts: Sequence[Account]) -> Account | None:
    """Return the account whose pause ends first, or None if one of them is not paused."""
    until = {account.paused_until_at: account for account in accounts}
    return None if None in until or not until else until[min(at for at in until if at is not None)]
