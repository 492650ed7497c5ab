"""Showing a task to a caller: now, or as `Prefer: wait=N` (RFC 7240) asks, once it is final."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Header, Path
from fastapi.responses import JSONResponse

from app import ids
from app.db import Connection
from app.db.queries import queue
from app.db.tables import provider_accounts, results, tasks
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.errors import NotFound, Unavailable
from app.resources import Resources
from app.rules.task import Status
from app.web.feed import Ended, Feed, Wanted
from app.web.schemas.tasks import QueueView, TaskView, task_view

MAX_WAIT_S = 60
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d+)"?\s*(?=$|[,;])', re.IGNORECASE)

Prefer = Annotated[
    str | None,
    Header(description="`wait=N`: answer when the task is final, or after N seconds (60 at most)."),
]


def known_form(task_id: Annotated[str, Path(description="The task's id.")]) -> str:
    """The id in the path. Raises NotFound for what never was one: not every database takes any text."""
    if not ids.is_id("task", task_id):
        raise NotFound("there is no such task")
    return task_id


TaskId = Annotated[str, Depends(known_form)]


async def read_with_result(use: Resources, task_id: str) -> tuple[Task, Result | None]:
    """A task and its image. Raises NotFound."""

    def read(connection: Connection) -> tuple[Task | None, Result | None]:
        return tasks.get(connection, task_id), results.of_tasks(connection, [task_id]).get(task_id)

    task, result = await use.db.read(read)
    if task is None:
        raise NotFound("there is no such task")
    return task, result


def look(connection: Connection, found: Sequence[Task]) -> list[TaskView]:
    """These tasks with their images and their places in the queue."""
    kept = results.of_tasks(connection, [task.id for task in found if task.status is Status.STORED])
    places = _places(connection, [task for task in found if task.status is Status.QUEUED])
    return [task_view(task, kept.get(task.id), places.get(task.id)) for task in found]


async def view(use: Resources, feed: Feed, task_id: str, prefer: str | None = None) -> TaskView:
    """The task, as soon as it is final, the time to wait is over, the service stops or the database is away.

    Raises NotFound, or Unavailable at the first look. Later ones are no reason to say that a task which was posted,
    and seen, was not: its client would post it again.
    """
    ends_at = asyncio.get_running_loop().time() + seconds(prefer)
    seen = await _see(use, task_id)
    if seen.status.final or not seconds(prefer):
        return seen
    try:
        async with feed.listen(None, Wanted(task_id)) as listener:
            # Only who listens already cannot miss what happens after a look.
            while not (seen := await _see(use, task_id)).status.final:
                left = ends_at - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                await listener.next(left)
    except (Ended, Unavailable):
        with suppress(Unavailable):
            seen = await _see(use, task_id)  # it may have moved in the moment in which the service was stopped
    return seen


async def _see(use: Resources, task_id: str) -> TaskView:
    seen = await use.db.read(lambda connection: look_at(connection, task_id))
    if seen is None:
        raise NotFound("there is no such task")
    return seen


def look_at(connection: Connection, task_id: str) -> TaskView | None:
    task = tasks.get(connection, task_id)
    return None if task is None else look(connection, [task])[0]


def seconds(prefer: str | None) -> int:
    """N of `wait=N` in a Prefer header, 60 at most; 0 without one."""
    match = _WAIT.search(prefer or "")
    # Nine digits are more than enough, and Python makes no number of thousands.
    return min(int(match[1].lstrip("0")[:9] or "0"), MAX_WAIT_S) if match else 0


def answer(seen: TaskView, status: HTTPStatus, prefer: str | None, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(seen.model_dump(mode="json"), status, {**headers, **applied(prefer)})


def applied(prefer: str | None) -> dict[str, str]:
    """The header that says which preference was heeded."""
    return {"preference-applied": f"wait={seconds(prefer)}"} if seconds(prefer) else {}


def _places(connection: Connection, queued: Sequence[Task]) -> dict[str, QueueView]:
    """Where queued tasks stand and what they wait for; one that is being dispatched is not in the queue any more."""
    positions = queue.positions(connection, [task.id for task in queued]) if queued else {}
    known = {
        account_id: provider_accounts.get(connection, account_id) for account_id in {task.account_id for task in queued}
    }
    places = {}
    for task in queued:
        account = known[task.account_id]
        if task.id in positions:
            places[task.id] = QueueView(
                position=positions[task.id],
                paused_until_at=account and account.paused_until_at,
                pause_reason=account and account.pause_reason,
            )
    return places
