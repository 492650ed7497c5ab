"""The provider-compatible API: a client of the provider works with a changed base URL.

Each route exists twice: at `/v1` as with Black Forest Labs, and at `/flux/v1` as with GPTProto.
"""

import asyncio
import re
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import lru_cache, partial
from http import HTTPStatus
from typing import IO, Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from app.catalog import Catalog, Model, unlisted
from app.db.tables import evidence
from app.db.tables.idempotency_keys import StoredAnswer
from app.db.tables.tasks import Task
from app.errors import NotFound, Unavailable
from app.params import TaskParams
from app.provider import messages
from app.provider.messages import Reasons
from app.resources import Connections, Resources
from app.rules.scopes import Scope
from app.rules.task import MODERATED
from app.transitions import idempotency
from app.transitions.idempotency import Claim
from app.web.auth import Caller, ResourcesDep, find_caller
from app.web.joining import Joined, join_or, repeatable
from app.web.model_schemas import MODEL_PATH
from app.web.path_ids import require_task_id
from app.web.problems import responses
from app.web.provider_errors import ProviderRoute, key_refused, refusals, without_body
from app.web.provider_form import read_submit
from app.web.recording import submit_once
from app.web.routes.results import origin, polling_origin, result_link
from app.web.routes.task_actions import IdempotencyKey
from app.web.schemas.provider_api import (
    Credits,
    Polled,
    Submitted,
    TaskNotFound,
    polled,
    task_not_found,
)
from app.web.schemas.tasks import TaskView
from app.web.task_response import read_with_result
from app.web.uploads import ApplicationUploads

_NO_STORE = {"cache-control": "no-store"}  # a status changes, and its link gives access to the image


async def require_caller(request: Request, use: ResourcesDep) -> Caller:
    """Return the caller of this request. Raises Unauthorized; at `/v1`, where the provider answers 403, KeyRefused."""
    caller = await find_caller(request, use, bare=True)
    if caller is None:
        raise key_refused(_mount(request))
    return caller


CallerDep = Annotated[Caller, Depends(require_caller)]


async def submit_model(
    request: Request, use: ResourcesDep, caller: CallerDep, model: str, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Submit a task. Tasks are queued: 429 only tells that a limit of the application is reached."""
    caller.require(Scope.SUBMIT)
    row = use.catalog.get(model) or unlisted(model)
    return await _submit(request, use, caller, row, idempotency_key)


async def get_result(
    request: Request,
    use: ResourcesDep,
    caller: CallerDep,
    task_id: Annotated[str, Query(alias="id", description="The id of the task.")],
) -> Response:
    """Get the status and the result of a task. A failed task is answered with 200 too."""
    caller.require(Scope.READ)
    try:
        task, result = await read_with_result(use, require_task_id(task_id), caller.owner)
    except NotFound:
        return JSONResponse(task_not_found(task_id), HTTPStatus.NOT_FOUND, _NO_STORE)
    sample = None if result is None else await result_link(request, use, caller, result)
    reasons = await _reasons(use, task) if task.failure in MODERATED else None
    return JSONResponse(polled(task, sample, reasons, camel_case=_mount(request) != ""), headers=_NO_STORE)


async def _reasons(use: Connections, task: Task) -> Reasons | None:
    """Return why a task was moderated, from the first proven report that says it."""
    reports = await use.db.read(evidence.failures, task.attempt_id)
    found = (messages.read_reasons(report.body) for report in reports)
    return next((reasons for reasons in found if reasons is not None), None)


async def get_credits(request: Request, use: ResourcesDep, caller: CallerDep) -> Credits:
    """Get the remaining credits of the provider's account, at most ten seconds old."""
    caller.require(Scope.METRICS)
    return Credits(credits=await request.app.state.balances.credits(use))


async def _submit(
    request: Request, use: Resources, caller: Caller, model: Model, idempotency_key: str | None
) -> JSONResponse:
    base_url, poll_at = origin(request, use), polling_origin(request, use)
    headers = dict(_NO_STORE)
    cost = None
    places = ApplicationUploads(use, caller.key_id, caller.application_id)
    async with AsyncExitStack() as stack:
        params, files = await read_submit(request, use.catalog, model, places, stack)
        if idempotency_key is None:
            repeated = await repeatable(_mount(request) or "provider", params, files)
            submit_new = partial(submit_once, use, caller, params, files, None, base_url)
            outcome: TaskView | Joined | StoredAnswer = await join_or(request, use, caller, repeated, submit_new)
        else:
            found = await _claim(use, caller, params, files, idempotency_key)
            if isinstance(found, Claim):
                outcome = await submit_once(use, caller, params, files, found, base_url)
            else:
                outcome = found
    if isinstance(outcome, TaskView):
        task_id, warnings = outcome.id, tuple(outcome.warnings)
    elif isinstance(outcome, Joined):
        task, _ = await read_with_result(use, outcome.task_ids[0], caller.owner)
        task_id, warnings, cost = task.id, tuple(task.warnings), task.cost
        headers |= outcome.headers
    else:
        task_id, warnings, headers["idempotency-replayed"] = outcome.task_id, outcome.warnings, "true"
        with suppress(NotFound, Unavailable):  # the answer does not need the cost
            cost = (await read_with_result(use, task_id, caller.owner))[0].cost
    polling_url = f"{poll_at}{_mount(request)}/v1/get_result?id={task_id}"
    answer = Submitted(
        id=task_id,
        polling_url=polling_url,
        webhook_url=params.options.webhook_url,
        cost=cost,
        warnings=list(warnings) or None,
    )
    return JSONResponse(answer.model_dump(exclude_none=True), headers=headers)


async def _claim(
    use: Resources, caller: Caller, params: TaskParams, files: dict[str, IO[bytes]], idempotency_key: str
) -> Claim | StoredAnswer:
    """Claim an Idempotency-Key, or return the first answer.

    This API sets `webhook_form`, so the request is compared without it, and matches the same request to `/v1/tasks`.
    A request to `/v1/tasks` with this form matches too, and so does one stored when the form still counted.
    """
    without_form = replace(params, options=params.options.model_copy(update={"webhook_form": None}))
    digest = await asyncio.to_thread(idempotency.digest_of, without_form, files)
    with_form = await asyncio.to_thread(idempotency.digest_of, params, files)
    images = len(params.images) + len(files)
    return await idempotency.claim(
        use, caller.application_id, idempotency_key, digest, images, equivalent_digest=with_form
    )


def _mount(request: Request) -> str:
    """Return the path prefix before `/v1`; the links in the answer have it too."""
    path: str = request.scope["path"]
    return "/flux" if path.startswith("/flux/") else ""


# The first parts of paths below /v1 that are no models.
_OWN_PATHS = (
    *("tasks", "models", "events", "usage", "keys", "endpoints", "deliveries", "callbacks", "jobs"),
    *("get_result", "credits", "applications", "accounts", "limits", "audit", "users", "erasures"),
)
_SUBMIT_REFUSALS = responses(
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    HTTPStatus.NOT_FOUND: {"model": TaskNotFound, "description": "There is no task with this id."}
}

router = APIRouter(tags=["drop-in"], route_class=ProviderRoute)
for _prefix in ("", "/flux"):
    _refusals = refusals(_prefix)
    router.add_api_route(
        f"{_prefix}/v1/get_result", get_result, response_model=Polled, responses={**_refusals, **_NOT_FOUND}
    )
    router.add_api_route(
        f"{_prefix}/v1/credits", get_credits, responses={**without_body(_prefix), **responses(HTTPStatus.NOT_FOUND)}
    )


@lru_cache(maxsize=4)  # building routes is slow, and tests build many applications with the same catalog
def model_routes(catalog: Catalog) -> list[BaseRoute]:
    """Return the routes that submit a task for the model in the path. They match no other path."""
    submit = APIRouter(tags=["drop-in"], route_class=ProviderRoute)
    for prefix in ("", "/flux"):
        submit.add_api_route(
            f"{prefix}/v1/{MODEL_PATH}",
            submit_model,
            methods=["POST"],
            response_model=Submitted,
            responses={**refusals(prefix), **_SUBMIT_REFUSALS},
        )
        route = cast("Route", submit.routes[-1])
        route.path_regex = re.compile(f"^{prefix}/v1/(?P<model>{_pattern(catalog)})$")
    return submit.routes


def _pattern(catalog: Catalog) -> str:
    """Return the pattern of the models in a path: those that are served or, if others are passed on, any id."""
    if not catalog.pass_unknown:
        return "|".join(map(re.escape, catalog.served))
    videos = "|".join(re.escape(model.id) for model in catalog if model.kind != "image")
    own = "|".join(_OWN_PATHS)
    return rf"(?!(?:{own})(?:/|$))(?!(?:{videos})$)[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)?"
