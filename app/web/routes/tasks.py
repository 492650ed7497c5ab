"""The routes that read tasks: a list, one task, and its timeline."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from app import ids
from app.db import Connection
from app.db.queries import task_list
from app.db.queries.task_list import TaskFilter
from app.errors import NotFound
from app.params import UtcInstant
from app.rules.task import Status
from app.web.auth import FeedDep, ReaderDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.path_ids import TaskId
from app.web.problems import USUAL_ERRORS, responses
from app.web.schemas.tasks import TaskList, TaskView
from app.web.schemas.timeline import Timeline
from app.web.task_response import Prefer, answer, read_timeline, task_views, wait_for_task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get(
    "",
    dependencies=[KnownQuery],
    responses=USUAL_ERRORS,
)
async def list_tasks(
    use: ResourcesDep,
    caller: ReaderDep,
    status: Annotated[
        list[Status] | None, Query(description="Only tasks in this state; repeat it for several states.")
    ] = None,
    model: Annotated[
        str | None, Query(pattern=r"^[0-9a-z._/-]{1,64}$", description="Only tasks of this model.")
    ] = None,
    created_after: Annotated[UtcInstant | None, Query(description="Only tasks created at this time or later.")] = None,
    created_before: Annotated[UtcInstant | None, Query(description="Only tasks created before this time.")] = None,
    user: Annotated[str | None, Query(min_length=1, max_length=256, description="Only tasks of this end user.")] = None,
    metadata: Annotated[
        list[Annotated[str, Field(min_length=2, max_length=577, pattern=":")]] | None,
        Query(description="Only tasks with this pair, as `key:value`; repeat it for several.", max_length=16),
    ] = None,
    prompt_contains: Annotated[
        str | None,
        Query(min_length=1, max_length=200, description="Only tasks with this text in the prompt, in any case."),
    ] = None,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("task"), description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of tasks in the page.")] = 20,
) -> TaskList:
    """List tasks, newest first.

    A search for `user`, `metadata` or `prompt_contains` examines up to 10,000 tasks for a page. It may then return
    fewer tasks than `limit`, or none, with a `next_cursor` that continues the search.
    """
    since = None if created_after is None else ids.first_at("task", created_after)
    bounds = [] if created_before is None else [ids.first_at("task", created_before)]
    before = min([*bounds, *([] if cursor is None else [cursor])], default=None)

    task_filter = TaskFilter(
        application_id=caller.owner,
        statuses=tuple(status or ()),
        model=model,
        user=user,
        metadata=tuple(metadata or ()),
        prompt_contains=prompt_contains,
        since=since,
        before=before,
    )

    def read(connection: Connection) -> TaskList:
        page = task_list.page(connection, task_filter, limit)
        return TaskList(tasks=task_views(connection, page.tasks), next_cursor=page.next_cursor)

    return await use.db.read(read)


@router.get(
    "/{task_id}",
    response_model=TaskView,
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_task(
    use: ResourcesDep, feed: FeedDep, caller: ReaderDep, task_id: TaskId, prefer: Prefer = None
) -> Response:
    """Get a task. With `Prefer: wait=N`, respond as soon as it is final."""
    return answer(await wait_for_task(use, feed, caller, task_id, prefer), HTTPStatus.OK, prefer, {})


@router.get(
    "/{task_id}/timeline",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_timeline(use: ResourcesDep, caller: ReaderDep, task_id: TaskId) -> Timeline:
    """Get the full history of a task, in order: states, attempts, evidence, downloads and webhook deliveries.

    `next` has the work that is planned, with its times.
    """
    timeline = await use.db.read(read_timeline, task_id, caller.owner)
    if timeline is None:
        raise NotFound("there is no such task")
    return timeline
