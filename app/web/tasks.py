"""The native API: post a task, read it, see why, get its image."""

import asyncio
import re
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from app import ids
from app.errors import NotFound
from app.params import IMAGE_FIELDS, Params
from app.record import Connection, downloads, evidence, results, submissions, tasks
from app.record.results import Result
from app.record.tasks import Task
from app.resources import Resources
from app.submit import submit
from app.task import Status
from app.web.access import Asking, Use
from app.web.problems import responses
from app.web.task_form import read_task
from app.web.views import TaskList, TaskView, Timeline, task_view, timeline_view

MAX_WAIT_S = 60
_LOOK_EVERY_S = 0.1
_WAIT = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)

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

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


def _body_schema() -> dict[str, Any]:
    as_json = Params.model_json_schema()
    as_files = Params.model_json_schema()
    for field in IMAGE_FIELDS:
        as_files["properties"][field] = {"type": "string", "format": "binary"}
    content = {"application/json": {"schema": as_json}, "multipart/form-data": {"schema": as_files}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=TaskView,
    openapi_extra=_body_schema(),
    responses={
        HTTPStatus.OK: {"model": TaskView, "description": "Final within the time that `Prefer: wait` gave."},
        **responses(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
)
async def post_task(request: Request, use: Use, asking: Asking, prefer: Prefer = None) -> Response:
    """Submit a task. The answer means that it is recorded, not that the provider has it."""
    async with AsyncExitStack() as stack:
        params, files = await read_task(request, stack)
        task_id = await submit(use, asking.key_id, params, files)
    view = await _view(use, task_id, prefer)
    final = view.status.final and prefer is not None
    status = HTTPStatus.OK if final else HTTPStatus.ACCEPTED
    return _answer(view, status, prefer, {"location": f"/v1/tasks/{task_id}"})


@router.get(
    "",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_tasks(
    use: Use,
    _asking: Asking,
    status: Annotated[Status | None, Query(description="Only tasks in this state.")] = None,
    model: Annotated[str | None, Query(pattern=r"^[0-9a-z.-]{1,64}$", description="Only tasks of this model.")] = None,
    cursor: Annotated[str | None, Query(pattern=r"^task_[0-9a-v]{37}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> TaskList:
    """Tasks, newest first."""

    def read(connection: Connection) -> tuple[list[Task], dict[str, Result]]:
        # One more than asked tells whether there are others behind them.
        found = tasks.newest(connection, limit=limit + 1, before=cursor, status=status, model=model)
        return found, results.of_tasks(connection, [task.id for task in found])

    found, kept = await use.db.read(read)
    page = found[:limit]
    return TaskList(
        tasks=[task_view(task, kept.get(task.id)) for task in page],
        next_cursor=page[-1].id if len(found) > limit else None,
    )


@router.get(
    "/{task_id}",
    response_model=TaskView,
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_task(use: Use, _asking: Asking, task_id: TaskId, prefer: Prefer = None) -> Response:
    """One task."""
    view = await _view(use, task_id, prefer)
    return _answer(view, HTTPStatus.OK, prefer, {})


@router.get(
    "/{task_id}/timeline",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_timeline(use: Use, _asking: Asking, task_id: TaskId) -> Timeline:
    """Everything that is known of a task, in order: attempts, evidence with its verdict and effect, downloads."""

    def read(connection: Connection) -> Timeline | None:
        task = tasks.get(connection, task_id)
        if task is None:
            return None
        return timeline_view(
            task,
            submissions.of_task(connection, task_id),
            evidence.of_task(connection, task_id),
            downloads.of_task(connection, task_id),
        )

    found = await use.db.read(read)
    if found is None:
        raise NotFound("there is no such task")
    return found


async def read_with_result(use: Resources, task_id: str) -> tuple[Task, Result | None]:
    """A task and its image. Raises NotFound."""

    def read(connection: Connection) -> tuple[Task | None, Result | None]:
        return tasks.get(connection, task_id), results.of_tasks(connection, [task_id]).get(task_id)

    task, result = await use.db.read(read)
    if task is None:
        raise NotFound("there is no such task")
    return task, result


async def _view(use: Resources, task_id: str, prefer: str | None) -> TaskView:
    """The task, as soon as it is final or the time to wait is over."""
    ends_at = asyncio.get_running_loop().time() + _seconds(prefer)
    while True:
        task, result = await read_with_result(use, task_id)
        if task.status.final or asyncio.get_running_loop().time() >= ends_at:
            return task_view(task, result)
        await asyncio.sleep(_LOOK_EVERY_S)


def _seconds(prefer: str | None) -> int:
    """N of `wait=N` in a Prefer header (RFC 7240), 60 at most; 0 without one."""
    match = _WAIT.search(prefer or "")
    return min(int(match[1]), MAX_WAIT_S) if match else 0


def _answer(view: TaskView, status: HTTPStatus, prefer: str | None, headers: dict[str, str]) -> JSONResponse:
    if _seconds(prefer):
        headers["preference-applied"] = f"wait={_seconds(prefer)}"
    return JSONResponse(view.model_dump(mode="json"), status, headers)
