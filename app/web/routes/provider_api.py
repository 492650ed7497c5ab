"""The drop-in door: the provider's own API, so that a client of it works by changing its base URL.

Everything is there twice, at `/v1` as with Black Forest Labs and at `/flux/v1` as with GPTProto.
"""

import asyncio
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from app.errors import KeyRefused, NotFound
from app.params import TaskParams
from app.resources import Resources
from app.submit import submit
from app.transitions import idempotency
from app.transitions.idempotency import Claim
from app.web.auth import Caller, ResourcesDep, find_caller
from app.web.problems import responses
from app.web.provider_form import body_schema, read_submit
from app.web.routes.results import origin, result_link
from app.web.routes.task_actions import IdempotencyKey, submit_once
from app.web.schemas.provider_api import Credits, Polled, Submitted, TaskNotFound, polled, task_not_found
from app.web.task_response import known_form, read_with_result

_NOT_KEPT = {"cache-control": "no-store"}  # a status changes, and a link in it is as good as a key


async def caller(request: Request, use: ResourcesDep) -> Caller:
    """The caller of this request. Raises KeyRefused: 403 is what the provider's clients know for a bad key."""
    found = await find_caller(request, use, bare=True)
    if found is None:
        raise KeyRefused("Not authenticated: send a valid API key as `x-key: KEY` or `Authorization: Bearer KEY`")
    return found


CallerDep = Annotated[Caller, Depends(caller)]


async def submit_pro(
    request: Request, use: ResourcesDep, asking: CallerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Submit a task for FLUX.1 Kontext [pro]. It queues here: there is no 429."""
    return await _submit(request, use, asking, "flux-kontext-pro", idempotency_key)


async def submit_max(
    request: Request, use: ResourcesDep, asking: CallerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Submit a task for FLUX.1 Kontext [max]. It queues here: there is no 429."""
    return await _submit(request, use, asking, "flux-kontext-max", idempotency_key)


async def get_result(
    request: Request, use: ResourcesDep, _asking: CallerDep, task_id: Annotated[str, Query(alias="id")]
) -> Response:
    """Where a task is, and its result: 200 also for one that failed."""
    try:
        task, result = await read_with_result(use, known_form(task_id))
    except NotFound:
        return JSONResponse(task_not_found(task_id), HTTPStatus.NOT_FOUND, _NOT_KEPT)
    sample = None if result is None else result_link(request, use, result)
    return JSONResponse(polled(task, sample, camel_case=_mount(request) != ""), headers=_NOT_KEPT)


async def get_credits(request: Request, use: ResourcesDep, _asking: CallerDep) -> Credits:
    """What is left on the provider's account, at most ten seconds old."""
    return Credits(credits=await request.app.state.balance.credits(use))


async def _submit(
    request: Request, use: Resources, asking: Caller, model: str, idempotency_key: str | None
) -> JSONResponse:
    reached = origin(request, use)
    headers = dict(_NOT_KEPT)
    async with AsyncExitStack() as stack:
        params, files = await read_submit(request, model, use.scratch, stack)
        if idempotency_key is None:
            task_id = await submit(use, asking.key_id, params, files, origin=reached)
        else:
            claim = await _claim(use, asking, params, files, idempotency_key)
            if isinstance(claim, Claim):
                task_id = await submit_once(use, asking.key_id, params, files, claim, reached)
            else:
                task_id, headers["idempotency-replayed"] = str(claim["id"]), "true"
    polling_url = f"{reached}{_mount(request)}/v1/get_result?id={task_id}"
    answer = Submitted(id=task_id, polling_url=polling_url, webhook_url=params.webhook_url)
    return JSONResponse(answer.model_dump(exclude_none=True), headers=headers)


async def _claim(
    use: Resources, asking: Caller, params: TaskParams, files: dict[str, IO[bytes]], idempotency_key: str
) -> Claim | dict[str, Any]:
    """The form is the door's choice and not of the request, which may have come to the native door before.

    One that asked for this form there is the same too, as is one that was remembered when the form still counted.
    """
    as_given = params.model_copy(update={"webhook_form": None})
    digest, with_form = [await asyncio.to_thread(idempotency.digest_of, each, files) for each in (as_given, params)]
    images = len(params.images()) + len(files)
    return await idempotency.claim(use, asking.key_id, idempotency_key, digest, images, or_digest=with_form)


def _mount(request: Request) -> str:
    """What stood before `/v1` in the path: the answer's links stay under it."""
    path: str = request.scope["path"]
    return "/flux" if path.startswith("/flux/") else ""


_REFUSALS = responses(
    HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
)
_SUBMIT: dict[str, Any] = {
    "methods": ["POST"],
    "response_model": Submitted,
    "openapi_extra": body_schema(),
    "responses": {
        **_REFUSALS,
        **responses(HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    },
}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    HTTPStatus.NOT_FOUND: {"model": TaskNotFound, "description": "Nobody knows this id."}
}

router = APIRouter(tags=["drop-in"])
for _at in ("/v1", "/flux/v1"):
    router.add_api_route(f"{_at}/flux-kontext-pro", submit_pro, **_SUBMIT)
    router.add_api_route(f"{_at}/flux-kontext-max", submit_max, **_SUBMIT)
    router.add_api_route(f"{_at}/get_result", get_result, response_model=Polled, responses={**_REFUSALS, **_NOT_FOUND})
    router.add_api_route(
        f"{_at}/credits",
        get_credits,
        responses=responses(HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
    )
