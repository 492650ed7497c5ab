"""The routes that change tasks: post, cancel, resubmit and erase."""

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from app.db import Connection
from app.db.tables import erased_tasks, erasures, tasks
from app.db.tables.erasures import Erasure
from app.db.tables.idempotency_keys import StoredAnswer
from app.errors import Conflict, NotFound, Unauthorized, Unavailable
from app.resources import Resources
from app.rules.task import RESUBMITTABLE, Status
from app.transitions import audit, idempotency, moves
from app.transitions.audit import Action
from app.transitions.erase import erase
from app.transitions.idempotency import Claim
from app.transitions.permit import permit
from app.web.answers import answer_of
from app.web.auth import ActorDep, Caller, FeedDep, ManagerDep, ResourcesDep, SubmitterDep
from app.web.feed import Feed
from app.web.joining import Joined, join_or, repeatable
from app.web.path_ids import TaskId
from app.web.problems import responses
from app.web.recording import submit_once
from app.web.routes.results import origin
from app.web.schemas import webhooks
from app.web.schemas.erasures import Receipt, receipt_view
from app.web.schemas.tasks import TaskView
from app.web.task_form import read_task
from app.web.task_response import (
    Prefer,
    answer,
    read_task_view,
    returns_representation,
    wait_for_task,
    wait_seconds,
    wait_until_final,
)
from app.web.uploads import ApplicationUploads

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
            HTTPStatus.PAYMENT_REQUIRED,
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
)
async def post_task(
    request: Request,
    use: ResourcesDep,
    feed: FeedDep,
    caller: SubmitterDep,
    prefer: Prefer = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a task. The response means that the task is recorded, not that the provider has accepted it."""
    headers: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        params, files = await read_task(
            request, use.catalog, ApplicationUploads(use, caller.key_id, caller.application_id), stack
        )
        if idempotency_key is not None:
            digest = await asyncio.to_thread(idempotency.digest_of, params, files)
            images = len(params.images) + len(files)
            found = await idempotency.claim(use, caller.application_id, idempotency_key, digest, images)
            if not isinstance(found, Claim):
                await stack.aclose()  # the upload must not keep its place during the wait
                return await _replay(use, feed, caller, found, prefer)
            task = await submit_once(use, caller, params, files, found, origin(request, use))
        else:
            repeated = await repeatable("native", params, files, held_s=wait_seconds(prefer))
            submit_new = partial(submit_once, use, caller, params, files, None, origin(request, use))
            outcome = await join_or(request, use, caller, repeated, submit_new)
            if isinstance(outcome, Joined):
                headers, outcome = (
                    outcome.headers,
                    await wait_until_final(use, feed, caller, outcome.task_ids[0], 0),
                )
            task = outcome
    if wait_seconds(prefer):
        # The task is recorded: with an error, the client would post it again.
        with suppress(Unavailable, Unauthorized):
            task = await answer_of(request).while_there(wait_for_task(use, feed, caller, task.id, prefer))
    return _posted(task, prefer, headers)


async def _replay(use: Resources, feed: Feed, caller: Caller, first: StoredAnswer, prefer: str | None) -> Response:
    """Return the first answer or, with `Prefer: wait`, the task as it is after the wait."""
    headers = {"idempotency-replayed": "true"}
    if first.task is None:
        raise NotFound("the task of this Idempotency-Key was erased")
    if wait_seconds(prefer):
        return _posted(await wait_for_task(use, feed, caller, first.task_id, prefer), prefer, headers)
    return JSONResponse(first.task, HTTPStatus.ACCEPTED, {**headers, "location": f"/v1/tasks/{first.task_id}"})


def _posted(task: TaskView, prefer: str | None, headers: dict[str, str]) -> Response:
    status = HTTPStatus.OK if task.status.final and wait_seconds(prefer) else HTTPStatus.ACCEPTED
    return answer(task, status, prefer, {**headers, "location": f"/v1/tasks/{task.id}"})


_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)


@router.post("/{task_id}/cancel", responses=_ERRORS)
async def cancel_task(use: ResourcesDep, caller: ManagerDep, actor: ActorDep, task_id: TaskId) -> TaskView:
    """Cancel a queued task.

    A task that the provider already has cannot be cancelled: its result is kept, and the task is marked `unwanted`.
    """

    def cancel(connection: Connection) -> TaskView | None:
        now, before = use.now(), read_task_view(connection, task_id, caller.owner)
        if before is None:
            return None
        moves.cancel(connection, task_id, now)
        after = read_task_view(connection, task_id, caller.owner)
        if after is not None and (before.status, before.unwanted) != (after.status, after.unwanted):
            audit.record(connection, actor, Action.TASK_CANCELLED, task_id, now, {"unwanted": after.unwanted})
        return after

    task = await use.db.write(cancel)
    if task is None:
        raise NotFound("there is no such task")
    if task.status in {Status.STORED, Status.FAILED}:
        raise Conflict(f"the task is {task.status} and can no longer be cancelled")
    return task


@router.post(
    "/{task_id}/resubmit",
    status_code=HTTPStatus.ACCEPTED,
    responses={**_ERRORS, **responses(HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.TOO_MANY_REQUESTS)},
)
async def resubmit_task(use: ResourcesDep, caller: SubmitterDep, actor: ActorDep, task_id: TaskId) -> TaskView:
    """Make a new attempt for a failed task. It may cost again: see `money_spent` of the failure.

    It counts in the limits and the budget of the application that asks.
    """

    def resubmit(connection: Connection) -> tuple[bool, TaskView | None]:
        task = tasks.get_owned(connection, task_id, caller.owner)
        moved, now = False, use.now()
        if task is not None and task.status in RESUBMITTABLE:
            model = use.catalog.of_task(task.model, task.request)
            right = permit(connection, use, caller.key_id, model, now)
            moved = moves.resubmit(connection, task_id, now, right.price)
        if moved:
            audit.record(connection, actor, Action.TASK_RESUBMITTED, task_id, now)
        return moved, read_task_view(connection, task_id, caller.owner)

    await use.disk.require()
    moved, view = await use.db.write(resubmit)
    if view is None:
        raise NotFound("there is no such task")
    if not moved:
        raise Conflict(f"the task is {view.status}: only a failed task can be resubmitted")
    return view


@router.delete(
    "/{task_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses={
        HTTPStatus.OK: {"model": Receipt, "description": "The receipt, with `Prefer: return=representation`."},
        HTTPStatus.NO_CONTENT: {
            "description": "Erased. `Location` is the address of the receipt.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **_ERRORS,
    },
)
async def erase_task(
    use: ResourcesDep,
    caller: ManagerDep,
    actor: ActorDep,
    task_id: TaskId,
    prefer: Annotated[
        str | None, Header(description="`return=representation`: respond with 200 and the receipt.")
    ] = None,
) -> Response:
    """Erase a final task with its images and all evidence. Its cost stays in the usage.

    Deliveries that are still waiting are not sent.
    """

    def erase_once(connection: Connection) -> Erasure | None:
        now = use.now()
        erasure_id = erase(connection, task_id, caller.owner, now)
        if erasure_id is not None:
            audit.record(connection, actor, Action.TASK_ERASED, task_id, now)
        erasure_id = erasure_id or erased_tasks.erasure_of(connection, task_id)
        return None if erasure_id is None else erasures.get(connection, erasure_id)

    erasure = await use.db.write(erase_once)
    if erasure is None:  # it was erased by a version without receipts, or at the end of its retention
        return Response(status_code=HTTPStatus.NO_CONTENT)
    headers = {"location": f"/v1/erasures/{erasure.id}"}
    if not returns_representation(prefer):
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=headers)
    headers["preference-applied"] = "return=representation"
    receipt = receipt_view(use.keys, erasure, await use.db.read(erasures.items, erasure.id, limit=1, after=None))
    return JSONResponse(receipt.model_dump(mode="json"), HTTPStatus.OK, headers)
