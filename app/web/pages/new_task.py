"""The page `/new`: a form made from the model's schema, and the task that it submits."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

from app import ids
from app.catalog import DEFAULT_MODEL, Model
from app.errors import InvalidRequest, UnsupportedMediaType
from app.params import OPTIONS
from app.resources import Resources
from app.rules.json_value import JsonValue
from app.rules.scopes import Scope
from app.transitions import idempotency
from app.transitions.idempotency import Claim
from app.web.auth import ResourcesDep
from app.web.body import media_type
from app.web.members import Files, Leniency, options_from_texts, to_params
from app.web.multipart import read_form
from app.web.pages.access import PosterDep, Visitor, VisitorDep, require_token
from app.web.pages.new_form import form_of
from app.web.pages.render import PageRoute, render
from app.web.pages.session import see_other
from app.web.recording import submit_once
from app.web.routes.results import origin
from app.web.uploads import ApplicationUploads

router = APIRouter(prefix="/new", route_class=PageRoute)

_NOTHING: Mapping[str, JsonValue] = MappingProxyType({})


@router.get("")
async def show_form(use: ResourcesDep, visitor: VisitorDep, model: str = DEFAULT_MODEL) -> Response:
    return _form(use, visitor, use.catalog.model(model))


@router.post("")
async def submit_form(request: Request, use: ResourcesDep, visitor: PosterDep) -> Response:
    """Submit the form. Its `once` is an Idempotency-Key, so a form that is sent twice makes one task."""
    visitor.caller.require(Scope.SUBMIT)
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("the form must be multipart/form-data")
    async with AsyncExitStack() as stack:
        uploads = ApplicationUploads(use, visitor.caller.key_id, visitor.caller.application_id)
        fields, files = await read_form(request, use.catalog, uploads, stack)
        require_token(use, visitor, str(fields.pop("token", "")))
        once = str(fields.pop("once", ""))
        model = use.catalog.model(str(fields.pop("model", DEFAULT_MODEL)))
        try:
            return see_other(f"/tasks/{await _submit(request, use, visitor, model, fields, files, once)}?done=new")
        except InvalidRequest as error:
            return _form(use, visitor, model, fields, error)


async def _submit(
    request: Request,
    use: Resources,
    visitor: Visitor,
    model: Model,
    fields: dict[str, JsonValue],
    files: Files,
    once: str,
) -> str:
    """Record the task of a form and return its id. Raises InvalidRequest, among others."""
    params, kept = to_params(
        use.catalog, model, dict(fields), files, options_from_texts, OPTIONS, leniency=Leniency.TEXTS
    )
    digest = await asyncio.to_thread(idempotency.digest_of, params, kept)
    images = len(params.images) + len(kept)
    found = await idempotency.claim(use, visitor.caller.key_id, once, digest, images)
    if not isinstance(found, Claim):
        return found.task_id
    task = await submit_once(use, visitor.caller, params, kept, found, origin(request, use))
    return task.id


def _form(
    use: Resources,
    visitor: Visitor,
    model: Model,
    values: Mapping[str, JsonValue] = _NOTHING,
    error: InvalidRequest | None = None,
) -> Response:
    problems = {} if error is None else error.fields
    form = form_of(model, values, problems)
    shown = {field.name for field in (*form.images, *form.first, *form.more) if field.problem}
    others = [f"{name}: {reason}" for name, reason in problems.items() if name.partition("[")[0] not in shown]
    return render(
        "new.html",
        HTTPStatus.OK if error is None else HTTPStatus(error.status),
        visitor=visitor,
        section="/new",
        model=model,
        models=[other.id for other in use.catalog if other.kind == "image"],
        form=form,
        has_problems=error is not None,
        problems=others,
        once=f"page-{ids.new_key()}",
        is_configured=use.accounts.can_submit,
        may_submit=Scope.SUBMIT in visitor.caller.scopes,
    )
