"""The routes that read tasks: a list, one task, and its timeline."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app import ids
from app.db import Connection
from app.db.tables import attempts, delivery_attempts, downloads, evidence, tasks
from app.errors import NotFound
from app.params import UtcInstant
from app.rules.task import Status
from app.web.auth import CallerDep, FeedDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.paging import page_of
from app.web.path_ids import TaskId
from app.web.problems import responses
from app.web.schemas.tasks import TaskList, TaskView
from app.web.schemas.timeline import Timeline, timeline_view
from app.web.task_response import Prefer, answer, task_views, wait_for_task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get(
    "",
    dependencies=[KnownQuery],
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_tasks(
    use: ResourcesDep,
    _caller: CallerDep,
    status: Annotated[
        list[Status] | None, Query(description="Only tasks in this state; repeat it for several states.")
    ] = None,
    model: Annotated[
        str | None, Query(pattern=r"^[0-9a-z._/-]{1,64}$", description="Only tasks of this model.")
    ] = None,
    created_after: Annotated[UtcInstant | None, Query(description="Only tasks created at this time or later.")] = None,
    created_before: Annotated[UtcInstant | None, Query(description="Only tasks created before this time.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("task"), description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of tasks in the page.")] = 20,
) -> TaskList:
    """List tasks, newest first."""
    since = None if created_after is None else ids.first_at("task", created_after)
    bounds = [] if created_before is None else [ids.first_at("task", created_before)]
    before = min([*bounds, *([] if cursor is None else [cursor])], default=None)

    def read(connection: Connection) -> TaskList:
        rows = tasks.newest(connection, limit=limit + 1, before=before, since=since, statuses=status or (), model=model)
        page, next_cursor = page_of(rows, limit)
        return TaskList(tasks=task_views(connection, page), next_cursor=next_cursor)

    return await use.db.read(read)


@router.get(
    "/{task_id}",
    response_model=TaskView,
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_task(
    use: ResourcesDep, feed: FeedDep, _caller: CallerDep, task_id: TaskId, prefer: Prefer = None
) -> Response:
    """Get a task. With `Prefer: wait=N`, respond as soon as it is final."""
    return answer(await wait_for_task(use, feed, task_id, prefer), HTTPStatus.OK, prefer, {})


@router.get(
    "/{task_id}/timeline",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_timeline(use: ResourcesDep, _caller: CallerDep, task_id: TaskId) -> Timeline:
    """Get the full history of a task, in order: states, attempts, evidence, downloads and webhook deliveries."""

    def read(connection: Connection) -> Timeline | None:
        task = tasks.get(connection, task_id)
        if task is None:
            return None
        return timeline_view(
            task,
            attempts.of_task(connection, task_id),
            evidence.of_task(connection, task_id),
            downloads.of_task(connection, task_id),
            delivery_attempts.summaries_of_task(connection, task_id),
        )

    timeline = await use.db.read(read)
    if timeline is None:
        raise NotFound("there is no such task")
    return timeline
