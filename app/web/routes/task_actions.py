"""What changes tasks: post one, cancel one, ask for a new attempt of one."""

import asyncio
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import IO, Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from app.db import Connection
from app.db.tables import tasks
from app.errors import Conflict, NotFound
from app.params import IMAGE_FIELDS, TaskParams
from app.resources import Resources
from app.rules.task import Status
from app.submit import submit
from app.transitions import idempotency, moves
from app.transitions.erase import erase
from app.transitions.idempotency import Claim
from app.web.auth import CallerDep, FeedDep, ResourcesDep
from app.web.feed import Feed
from app.web.problems import responses
from app.web.routes.results import origin
from app.web.schemas import webhooks
from app.web.schemas.tasks import TaskView
from app.web.task_form import LIST_FIELD, read_task
from app.web.task_response import Prefer, TaskId, answer, look_at, seconds, view

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

IdempotencyKey = Annotated[
    str | None,
    Header(max_length=260, description="Sent again with the same body, it gives the first answer for 24 hours."),
]


def _body_schema() -> dict[str, Any]:
    as_json = TaskParams.model_json_schema()
    as_files = TaskParams.model_json_schema()
    for field in IMAGE_FIELDS:
        as_files["properties"][field] = {"type": "string", "format": "binary"}
    as_files["properties"][LIST_FIELD]["description"] = "A part for each name, or one part with commas between them."
    examples = {"text-to-image": {"value": {"prompt": "a lighthouse at dawn", "aspect_ratio": "16:9", "priority": 5}}}
    content = {
        "application/json": {"schema": as_json, "examples": examples},
        "multipart/form-data": {"schema": as_files},
    }
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=TaskView,
    callbacks=webhooks.callbacks.routes,
    openapi_extra=_body_schema(),
    responses={
        HTTPStatus.OK: {"model": TaskView, "description": "Final within the time that `Prefer: wait` gave."},
        **responses(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
)
async def post_task(
    request: Request,
    use: ResourcesDep,
    feed: FeedDep,
    asking: CallerDep,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a task. The answer means that it is recorded, not that the provider has it."""
    async with AsyncExitStack() as stack:
        params, files = await read_task(request, use.scratch, stack)
        if idempotency_key is None:
            task_id = await submit(use, asking.key_id, params, files, origin=origin(request, use))
        else:
            digest = await asyncio.to_thread(idempotency.digest_of, params, files)
            images = len(params.images()) + len(files)
            claim = await idempotency.claim(use, asking.key_id, idempotency_key, digest, images)
            if not isinstance(claim, Claim):
                return await _replay(use, feed, claim, prefer)
            task_id = await submit_once(use, asking.key_id, params, files, claim, origin(request, use))
    return await _posted(use, feed, task_id, prefer, {})


async def submit_once(
    use: Resources, key_id: str, params: TaskParams, files: dict[str, IO[bytes]], claim: Claim, origin: str
) -> str:
    """Submit, and remember the answer in the same transaction; a request that came to nothing is forgotten."""

    def remember(connection: Connection, task_id: str) -> None:
        seen = look_at(connection, task_id)
        if seen is not None:
            claim.answer(connection, seen.model_dump(mode="json"))

    try:
        return await submit(use, key_id, params, files, on_record=remember, origin=origin)
    except Exception:
        await idempotency.let_go(use, claim)
        raise


async def _replay(use: Resources, feed: Feed, first: dict[str, Any], prefer: str | None) -> Response:
    """The first answer; with `Prefer: wait`, the task as it is by then."""
    headers = {"idempotency-replayed": "true"}
    if "status" not in first:
        raise NotFound("the task that this Idempotency-Key stands for was erased")
    if seconds(prefer):
        return await _posted(use, feed, first["id"], prefer, headers)
    return JSONResponse(first, HTTPStatus.ACCEPTED, {**headers, "location": f"/v1/tasks/{first['id']}"})


async def _posted(use: Resources, feed: Feed, task_id: str, prefer: str | None, headers: dict[str, str]) -> Response:
    seen = await view(use, feed, task_id, prefer)
    status = HTTPStatus.OK if seen.status.final and seconds(prefer) else HTTPStatus.ACCEPTED
    return answer(seen, status, prefer, {**headers, "location": f"/v1/tasks/{task_id}"})


_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)


@router.post("/{task_id}/cancel", responses=_ERRORS)
async def cancel_task(use: ResourcesDep, _asking: CallerDep, task_id: TaskId) -> TaskView:
    """Cancel a task that is queued. What the provider has it cannot give back: that result is kept, as unwanted."""

    def cancel(connection: Connection) -> TaskView | None:
        moves.cancel(connection, task_id, use.now())
        return look_at(connection, task_id)

    seen = await use.db.write(cancel)
    if seen is None:
        raise NotFound("there is no such task")
    if seen.status in {Status.STORED, Status.FAILED}:
        raise Conflict(f"the task is {seen.status}: there is nothing left to cancel")
    return seen


@router.post("/{task_id}/resubmit", status_code=HTTPStatus.ACCEPTED, responses=_ERRORS)
async def resubmit_task(use: ResourcesDep, _asking: CallerDep, task_id: TaskId) -> TaskView:
    """Start a new attempt of a task that failed. It may cost again: the failure's `money_spent` says what is known."""

    def resubmit(connection: Connection) -> tuple[bool, TaskView | None]:
        task = tasks.get(connection, task_id)
        done = task is not None and moves.resubmit(connection, task_id, task.account_id, use.now())
        return done, look_at(connection, task_id)

    done, seen = await use.db.write(resubmit)
    if seen is None:
        raise NotFound("there is no such task")
    if not done:
        raise Conflict(f"the task is {seen.status}: only one that failed can be submitted again")
    return seen


@router.delete(
    "/{task_id}", status_code=HTTPStatus.NO_CONTENT, responses={**_ERRORS, **responses(HTTPStatus.FORBIDDEN)}
)
async def erase_task(use: ResourcesDep, asking: CallerDep, task_id: TaskId) -> None:
    """Erase a task that has ended, with its images and all that was said of it. What it cost stays in the usage.

    By the key that posted it, or one with the scope `*`. What has not been told by then is not told any more.
    """
    await use.db.write(lambda connection: erase(connection, task_id, asking.owner, use.now()))
