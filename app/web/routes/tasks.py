"""Reading tasks: one, many, and everything that is known of one."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.db import Connection
from app.db.tables import attempts, delivery_attempts, downloads, evidence, tasks
from app.errors import NotFound
from app.rules.task import Status
from app.web.auth import CallerDep, FeedDep, ResourcesDep
from app.web.problems import responses
from app.web.schemas.tasks import TaskList, TaskView
from app.web.schemas.timeline import Timeline, timeline_view
from app.web.task_response import Prefer, TaskId, answer, look, view

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get(
    "",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_tasks(
    use: ResourcesDep,
    _asking: CallerDep,
    status: Annotated[Status | None, Query(description="Only tasks in this state.")] = None,
    model: Annotated[str | None, Query(pattern=r"^[0-9a-z.-]{1,64}$", description="Only tasks of this model.")] = None,
    cursor: Annotated[str | None, Query(pattern=r"^task_[0-9a-v]{37}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> TaskList:
    """Tasks, newest first."""

    def read(connection: Connection) -> TaskList:
        # One more than asked tells whether there are others behind them.
        found = tasks.newest(connection, limit=limit + 1, before=cursor, status=status, model=model)
        page = look(connection, found[:limit])
        return TaskList(tasks=page, next_cursor=page[-1].id if len(found) > limit else None)

    return await use.db.read(read)


@router.get(
    "/{task_id}",
    response_model=TaskView,
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_task(
    use: ResourcesDep, feed: FeedDep, _asking: CallerDep, task_id: TaskId, prefer: Prefer = None
) -> Response:
    """One task."""
    return answer(await view(use, feed, task_id, prefer), HTTPStatus.OK, prefer, {})


@router.get(
    "/{task_id}/timeline",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_timeline(use: ResourcesDep, _asking: CallerDep, task_id: TaskId) -> Timeline:
    """Everything that is known of a task, in order: attempts, evidence with its verdict and effect, downloads."""

    def read(connection: Connection) -> Timeline | None:
        task = tasks.get(connection, task_id)
        if task is None:
            return None
        return timeline_view(
            task,
            attempts.of_task(connection, task_id),
            evidence.of_task(connection, task_id),
            downloads.of_task(connection, task_id),
            delivery_attempts.told_of(connection, task_id),
        )

    found = await use.db.read(read)
    if found is None:
        raise NotFound("there is no such task")
    return found
