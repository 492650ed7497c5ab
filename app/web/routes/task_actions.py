"""The routes that change tasks: post, cancel, resubmit and erase."""

import asyncio
from contextlib import AsyncExitStack, suppress
from http import HTTPStatus
from typing import IO, Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from app.db import Connection
from app.db.tables import tasks
from app.db.tables.idempotency_keys import StoredAnswer
from app.errors import Conflict, NotFound, RequestError, TaskMayExist, Unavailable
from app.params import TaskParams
from app.resources import Resources
from app.rules.task import Status
from app.submit import submit
from app.transitions import idempotency, moves
from app.transitions.erase import erase
from app.transitions.idempotency import Claim
from app.web import problems
from app.web.auth import CallerDep, FeedDep, ResourcesDep
from app.web.feed import Feed
from app.web.path_ids import TaskId
from app.web.problems import responses
from app.web.routes.results import origin
from app.web.schemas import webhooks
from app.web.schemas.tasks import TaskView
from app.web.task_form import read_task
from app.web.task_response import Prefer, answer, read_task_view, wait_for_task, wait_seconds

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        max_length=260,
        description="A request repeated with the same key and body returns the first response, for 24 hours.",
    ),
]


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=TaskView,
    callbacks=webhooks.callbacks.routes,
    responses={
        HTTPStatus.OK: {"model": TaskView, "description": "The task became final within the time of `Prefer: wait`."},
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
    caller: CallerDep,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a task. The response means that the task is recorded, not that the provider has accepted it."""
    async with AsyncExitStack() as stack:
        params, files = await read_task(request, use.catalog, use.uploads, stack)
        claim: Claim | None = None
        if idempotency_key is not None:
            digest = await asyncio.to_thread(idempotency.digest_of, params, files)
            images = len(params.images) + len(files)
            found = await idempotency.claim(use, caller.key_id, idempotency_key, digest, images)
            if not isinstance(found, Claim):
                await stack.aclose()  # the upload must not keep its place during the wait
                return await _replay(use, feed, found, prefer)
            claim = found
        task = await submit_once(use, caller.key_id, params, files, claim, origin(request, use))
    if wait_seconds(prefer):
        with suppress(Unavailable):  # the task is recorded: with an error, the client would post it again
            task = await wait_for_task(use, feed, task.id, prefer)
    return _posted(task, prefer, {})


async def submit_once(
    use: Resources,
    key_id: str,
    params: TaskParams,
    files: dict[str, IO[bytes]],
    claim: Claim | None,
    origin: str,
) -> TaskView:
    """Submit a task and return it as it was recorded.

    It is read in the transaction that records it, so nothing can fail between the record and the answer. With a claim,
    it is also stored as the answer for the Idempotency-Key; if the request fails without a task, the claim is released.

    Raises TaskMayExist if the outcome of the transaction is unknown.
    """
    recorded: TaskView | None = None

    def remember(connection: Connection, task_id: str) -> None:
        nonlocal recorded
        recorded = read_task_view(connection, task_id)
        if claim is not None and recorded is not None:
            claim.answer(connection, StoredAnswer(task_id, recorded.model_dump(mode="json")))

    try:
        await submit(use, key_id, params, files, on_record=remember, origin=origin)
    except Exception as error:
        if claim is not None:
            with suppress(Unavailable):  # the claim then expires by itself
                await idempotency.release(use, claim)
        if recorded is None or isinstance(error, RequestError):
            raise
        if not isinstance(error, Unavailable):
            problems.log_unexpected(error, "POST")
        raise TaskMayExist(recorded.id) from error
    if recorded is None:
        raise AssertionError("unreachable: the task was read in the transaction that recorded it")
    return recorded


async def _replay(use: Resources, feed: Feed, first: StoredAnswer, prefer: str | None) -> Response:
    """Return the first answer or, with `Prefer: wait`, the task as it is after the wait."""
    headers = {"idempotency-replayed": "true"}
    if first.task is None:
        raise NotFound("the task of this Idempotency-Key was erased")
    if wait_seconds(prefer):
        return _posted(await wait_for_task(use, feed, first.task_id, prefer), prefer, headers)
    return JSONResponse(first.task, HTTPStatus.ACCEPTED, {**headers, "location": f"/v1/tasks/{first.task_id}"})


def _posted(task: TaskView, prefer: str | None, headers: dict[str, str]) -> Response:
    status = HTTPStatus.OK if task.status.final and wait_seconds(prefer) else HTTPStatus.ACCEPTED
    return answer(task, status, prefer, {**headers, "location": f"/v1/tasks/{task.id}"})


_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)


@router.post("/{task_id}/cancel", responses=_ERRORS)
async def cancel_task(use: ResourcesDep, _caller: CallerDep, task_id: TaskId) -> TaskView:
    """Cancel a queued task.

    A task that the provider already has cannot be cancelled: its result is kept, and the task is marked `unwanted`.
    """

    def cancel(connection: Connection) -> TaskView | None:
        moves.cancel(connection, task_id, use.now())
        return read_task_view(connection, task_id)

    task = await use.db.write(cancel)
    if task is None:
        raise NotFound("there is no such task")
    if task.status in {Status.STORED, Status.FAILED}:
        raise Conflict(f"the task is {task.status} and can no longer be cancelled")
    return task


@router.post("/{task_id}/resubmit", status_code=HTTPStatus.ACCEPTED, responses=_ERRORS)
async def resubmit_task(use: ResourcesDep, _caller: CallerDep, task_id: TaskId) -> TaskView:
    """Make a new attempt for a failed task. It may cost again: see `money_spent` of the failure."""

    def resubmit(connection: Connection) -> tuple[bool, TaskView | None]:
        task = tasks.get(connection, task_id)
        moved = task is not None and moves.resubmit(connection, task_id, task.account_id, use.now())
        return moved, read_task_view(connection, task_id)

    await use.disk.require()
    moved, view = await use.db.write(resubmit)
    if view is None:
        raise NotFound("there is no such task")
    if not moved:
        raise Conflict(f"the task is {view.status}: only a failed task can be resubmitted")
    return view


@router.delete(
    "/{task_id}", status_code=HTTPStatus.NO_CONTENT, responses={**_ERRORS, **responses(HTTPStatus.FORBIDDEN)}
)
async def erase_task(use: ResourcesDep, caller: CallerDep, task_id: TaskId) -> None:
    """Erase a final task with its images and all evidence. Its cost stays in the usage.

    Requires the key that posted the task or a key with the scope `*`. Deliveries that are still waiting are not sent.
    """
    await use.db.write(erase, task_id, caller.owner, use.now())
