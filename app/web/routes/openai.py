"""The API in OpenAI's form: its clients make images with the base URL `/openai/v1`."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from app.db import Connection
from app.db.tables.idempotency_keys import StoredAnswer
from app.errors import FluxhookError, InvalidRequest, TaskEnded, TooLarge
from app.resources import Resources
from app.transitions import idempotency
from app.transitions.idempotency import Claim
from app.web.answers import answer_of
from app.web.auth import Caller, CallerDep, FeedDep, ResourcesDep, SubmitterDep
from app.web.feed import Feed
from app.web.joining import Joined, join_or, repeatable
from app.web.openai import answer
from app.web.openai.errors import responses
from app.web.openai.form import DEFAULT, ImagesRequest, find_model, read_edit, read_generation
from app.web.openai.outcome import Made, images_of
from app.web.openai.pictures import renamed
from app.web.recording import record_once
from app.web.routes.results import origin, result_link
from app.web.routes.task_actions import IdempotencyKey
from app.web.schemas.openai import ImagesResponse, ModelObject, ModelObjects
from app.web.uploads import ApplicationUploads

PREFIX = "/openai/v1"
router = APIRouter(prefix=PREFIX, tags=["openai"])

Read = Callable[[Request, Resources, ApplicationUploads, AsyncExitStack], Awaitable[ImagesRequest]]
_OWNER = "fluxhook"
_RESPONSES: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {
        "description": "The images; with `stream`, one event for each.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
} | responses(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_ONLY_IMAGES = "The members of OpenAI's form, and those of the model and the options of Fluxhook beside them."
_SHARED: dict[str, Any] = {
    "model": {"type": "string", "description": "The id of a model or an alias."},
    "prompt": {"type": "string"},
    "n": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1},
    "size": {"type": "string", "default": "auto", "description": "`auto` or `WxH` in pixels."},
    "output_format": {"type": "string", "description": "`png` is the default."},
    "response_format": {"type": "string", "enum": ["b64_json", "url"], "default": "b64_json"},
    "stream": {"type": "boolean", "default": False},
    "user": {"type": "string"},
}
_FILE = {"type": "string", "format": "binary"}
_GENERATION = {"type": "object", "title": "ImageGeneration", "properties": _SHARED, "description": _ONLY_IMAGES}
_EDIT = {
    "type": "object",
    "title": "ImageEdit",
    "properties": {**_SHARED, "image": {"type": "array", "items": _FILE}, "mask": _FILE},
    "required": ["image"],
    "description": _ONLY_IMAGES,
}
_REFERENCE = {
    "type": "object",
    "properties": {"image_url": {"type": "string", "description": "A URL or a data URL in base64."}},
    "required": ["image_url"],
}
_EDIT_JSON = {
    "type": "object",
    "title": "ImageEditOfReferences",
    "properties": {**_SHARED, "images": {"type": "array", "items": _REFERENCE}, "mask": _REFERENCE},
    "required": ["images"],
    "description": _ONLY_IMAGES,
}


def _body(**schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body, by the short names of its media types."""
    types = {"json": "application/json", "form": "multipart/form-data"}
    content = {types[name]: {"schema": schema} for name, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/images/generations",
    response_model=ImagesResponse,
    responses=_RESPONSES,
    openapi_extra=_body(json=_GENERATION),
)
async def generate_images(
    request: Request, use: ResourcesDep, feed: FeedDep, caller: SubmitterDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make images from a text. The response comes as soon as all are stored."""
    return await _make(request, use, feed, caller, idempotency_key, read_generation, "image_generation.completed")


@router.post(
    "/images/edits",
    response_model=ImagesResponse,
    responses=_RESPONSES,
    openapi_extra=_body(form=_EDIT, json=_EDIT_JSON),
)
async def edit_images(
    request: Request, use: ResourcesDep, feed: FeedDep, caller: SubmitterDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Make images from images and a text."""
    return await _make(request, use, feed, caller, idempotency_key, read_edit, "image_edit.completed")


async def _make(
    request: Request,
    use: Resources,
    feed: Feed,
    caller: Caller,
    idempotency_key: str | None,
    read: Read,
    event: str,
) -> Response:
    headers: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        asked = await read(request, use, ApplicationUploads(use, caller.key_id, caller.application_id), stack)
        try:
            found = await _recorded(request, use, caller, asked, idempotency_key)
        except (InvalidRequest, TooLarge) as error:
            raise renamed(error, asked.names) from None
    if isinstance(found, Joined):
        headers = found.headers
    task_ids = found.task_ids if isinstance(found, Joined) else found
    response = await _answered(request, use, feed, caller, asked, task_ids, event)
    response.headers.update({"fluxhook-tasks": ", ".join(task_ids), **headers})
    return response


async def _recorded(
    request: Request, use: Resources, caller: Caller, asked: ImagesRequest, idempotency_key: str | None
) -> Sequence[str] | Joined:
    """Record the tasks and return their ids; those of the first request if the Idempotency-Key was used before."""
    submit = partial(record_once, use, caller, asked.params, asked.files, asked.count)
    base_url = origin(request, use)
    if idempotency_key is None:
        held_s = use.openai.wait.total_seconds()
        repeated = await repeatable("openai", asked.params, asked.files, asked.count, held_s)
        return await join_or(request, use, caller, repeated, partial(submit, None, base_url))
    digest = await asyncio.to_thread(_digest, asked)
    images = asked.count * (len(asked.params.images) + len(asked.files))
    claim = await idempotency.claim(use, caller.application_id, idempotency_key, digest, images)
    if not isinstance(claim, Claim):
        return _ids_of(claim)

    def remember(connection: Connection, task_ids: Sequence[str]) -> None:
        claim.answer(connection, _stored(task_ids))

    return await submit(claim, base_url, remember)


async def _answered(
    request: Request,
    use: Resources,
    feed: Feed,
    caller: Caller,
    asked: ImagesRequest,
    task_ids: Sequence[str],
    event: str,
) -> Response:
    seconds, keepalive = use.openai.wait.total_seconds(), use.openai.keepalive

    links: dict[str, str] = {}  # by the id of the task

    async def outcome(wanted: Sequence[str]) -> Sequence[Made]:
        answered = answer_of(request)
        # A repetition joins, or has the Idempotency-Key of this request. Without both it would be charged again.
        found_again = answered.request_id is not None or "idempotency-key" in request.headers
        try:
            waiting = images_of(use, feed, caller, wanted, seconds, are_found_again=found_again)
            made = await answered.while_there(waiting)
        except TaskEnded:
            answered.is_final = True
            raise
        except FluxhookError as error:
            error.retryable = found_again
            await answered.reopen()
            raise
        if asked.response_format == "url":
            links.update({image.task.id: await result_link(request, use, caller, image.result) for image in made})
        return made

    if asked.stream:
        return answer.events(use, [partial(outcome, [task_id]) for task_id in task_ids], event)

    def link(image: Made) -> str:
        return links[image.task.id]

    in_links = link if asked.response_format == "url" else None
    if keepalive is not None:
        return answer.kept_alive(use, partial(outcome, task_ids), in_links, keepalive.total_seconds())
    return answer.whole(use, await outcome(task_ids), in_links)


def _digest(asked: ImagesRequest) -> str:
    """Return what identifies a request: that of its tasks, and their number. How they are returned does not matter."""
    of_task = idempotency.digest_of(asked.params, asked.files)
    return hashlib.sha256(f"openai {asked.count} {of_task}".encode()).hexdigest()


def _stored(task_ids: Sequence[str]) -> StoredAnswer:
    return StoredAnswer(task_ids[0], {"id": task_ids[0], "status": "queued", "task_ids": list(task_ids)})


def _ids_of(stored: StoredAnswer) -> list[str]:
    """Return the tasks of a stored answer; the first alone once that is erased."""
    task_ids = (stored.task or {}).get("task_ids")
    return [str(task_id) for task_id in task_ids] if isinstance(task_ids, list) else [stored.task_id]


@router.get("/models", responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE))
async def list_models(use: ResourcesDep, _caller: CallerDep) -> ModelObjects:
    """List the models that can be used, and their aliases."""
    aliases = {alias: target for alias, target in use.openai.aliases.items() if alias != DEFAULT}
    models = [ModelObject(id=model_id, owned_by=_OWNER) for model_id in use.catalog.served]
    return ModelObjects(data=[*models, *(ModelObject(id=alias, owned_by=target) for alias, target in aliases.items())])


@router.get(
    "/models/{model_id:path}",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_model(model_id: str, use: ResourcesDep, _caller: CallerDep) -> ModelObject:
    """Get a model by its id or an alias."""
    model = find_model(use, model_id)
    return ModelObject(id=model_id, owned_by=_OWNER if model.id == model_id else model.id)
