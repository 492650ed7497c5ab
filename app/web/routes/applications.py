"""Applications and their keys. Requires the scope `admin`."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app import ids, jobs
from app.db import Connection
from app.db.tables import api_keys, applications
from app.db.tables.applications import Application, NewApplication
from app.errors import Conflict, NotFound
from app.jobs import NewJob, Step
from app.resources import Resources
from app.transitions import audit, budgets
from app.transitions.admit import admit
from app.transitions.audit import Action, Actor
from app.web.auth import ActorDep, AdminDep, ResourcesDep
from app.web.body import REFUSALS, described, json_body
from app.web.known_query import KnownQuery
from app.web.paging import MAX_ROWS, page_of
from app.web.path_ids import ApplicationId
from app.web.problems import responses
from app.web.routes.keys import Links, Queued, make_key_of
from app.web.schemas.applications import (
    ApplicationChangeBody,
    ApplicationList,
    ApplicationView,
    NewApplicationBody,
    application_view,
)
from app.web.schemas.keys import MadeKey, NewKey
from app.webhooks import subscription
from app.worker.sweep import NO_TASK

router = APIRouter(prefix="/v1/applications", tags=["applications"])

_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)
_ERRORS_OF_ONE = {**_ERRORS, **responses(HTTPStatus.NOT_FOUND)}


@router.get("", responses={**_ERRORS, **responses(HTTPStatus.UNPROCESSABLE_ENTITY)}, dependencies=[KnownQuery])
async def list_applications(
    use: ResourcesDep,
    _caller: AdminDep,
    cursor: Annotated[
        str | None,
        Query(
            pattern=f"{ids.pattern('app')}|^{applications.ADMIN_ID}$",
            description="The `next_cursor` of the previous page.",
        ),
    ] = None,
    limit: Annotated[
        int, Query(ge=1, le=MAX_ROWS, description="Maximum number of applications in the page.")
    ] = MAX_ROWS,
) -> ApplicationList:
    """List all applications, newest first. Requires the scope `admin`."""
    page, next_cursor = page_of(await use.db.read(applications.newest, limit + 1, cursor), limit)
    return ApplicationList(applications=[application_view(row) for row in page], next_cursor=next_cursor)


@router.post(
    "", status_code=HTTPStatus.CREATED, responses={**_ERRORS, **REFUSALS}, openapi_extra=described(NewApplicationBody)
)
async def make_application(
    use: ResourcesDep,
    _caller: AdminDep,
    actor: ActorDep,
    body: Annotated[NewApplicationBody, Depends(json_body(NewApplicationBody))],
) -> ApplicationView:
    """Create an application. It has no key yet. Requires the scope `admin`."""
    return await make_application_as(use, actor, body, ids.new_id("app", use.now()))


async def make_application_as(
    use: Resources, actor: Actor, body: NewApplicationBody, application_id: str
) -> ApplicationView:
    """Create an application with this id. Raises Conflict if there is one."""
    await subscription.check(use, body)
    now = use.now()
    values = body.change(use.keys, application_id)

    def make(connection: Connection) -> Application:
        if not applications.insert(connection, NewApplication(application_id, now, values)):
            raise Conflict("there is an application with this id")
        audit.record(connection, actor, Action.APPLICATION_CREATED, application_id, now)
        return _get(connection, application_id)

    return application_view(await use.db.write(make))


@router.get("/{application_id}", responses=_ERRORS_OF_ONE)
async def get_application(use: ResourcesDep, _caller: AdminDep, application_id: ApplicationId) -> ApplicationView:
    """Get one application. Requires the scope `admin`."""
    return application_view(await use.db.read(_get, application_id))


@router.patch(
    "/{application_id}",
    responses={**_ERRORS_OF_ONE, **REFUSALS},
    openapi_extra=described(ApplicationChangeBody),
)
async def change_application(
    use: ResourcesDep,
    _caller: AdminDep,
    actor: ActorDep,
    application_id: ApplicationId,
    body: Annotated[ApplicationChangeBody, Depends(json_body(ApplicationChangeBody))],
) -> ApplicationView:
    """Change an application, or enable one that is disabled. Requires the scope `admin`."""
    return await change_application_if(use, actor, application_id, body)


async def change_application_if(
    use: Resources,
    actor: Actor,
    application_id: str,
    body: ApplicationChangeBody,
    check: Callable[[Application], None] = lambda _application: None,
) -> ApplicationView:
    """Change an application, or enable one. `check` gets it as it is before, locked, and raises to prevent the change.

    Raises NotFound.
    """
    await subscription.check(use, body)
    values = body.change(use.keys, application_id)

    def change(connection: Connection) -> Application:
        applications.lock(connection, application_id)
        before = _get(connection, application_id)
        check(before)
        applications.change(connection, application_id, values)
        if "budget" in body.model_fields_set:
            budgets.adopt(connection, application_id, before.budget, _get(connection, application_id).budget, use.now())
        if body.enables:
            applications.enable(connection, application_id)
            api_keys.go_on(connection, application_id)
        if "limits" in body.model_fields_set:
            admit(connection, use.now())  # a higher limit of tasks in flight lets queued ones start
        changed = " ".join(sorted(body.model_fields_set))
        audit.record(connection, actor, Action.APPLICATION_CHANGED, application_id, use.now(), {"changed": changed})
        return _get(connection, application_id)

    return application_view(await use.db.write(change))


@router.delete(
    "/{application_id}",
    responses={**_ERRORS_OF_ONE, **responses(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)},
)
async def disable_application(
    use: ResourcesDep,
    caller: AdminDep,
    actor: ActorDep,
    application_id: ApplicationId,
    queued: Queued = "stop",
    links: Links = "keep",
) -> ApplicationView:
    """Disable an application until it is enabled again: its keys are refused. Requires the scope `admin`.

    All processes refuse its keys at once, and end its open streams and waiting requests within seconds.
    """
    if application_id in {caller.application_id, applications.ADMIN_ID}:
        raise Conflict("the calling application and the operator's cannot be disabled")
    stop, end = queued == "stop", links == "end"

    def disable(connection: Connection) -> Application:
        now, before = use.now(), _get(connection, application_id)
        applications.disable(connection, application_id, now)
        stops = stop and before.disabled_at is None
        api_keys.disable_all(connection, application_id, now, stop_queued=stops, end_links=end)
        if stops:
            jobs.enqueue(connection, [NewJob(Step.SWEEP, NO_TASK, now)])
        if before.disabled_at is None:
            detail = {"queued": queued, "links": links}
            audit.record(connection, actor, Action.APPLICATION_DISABLED, application_id, now, detail)
        return _get(connection, application_id)

    return application_view(await use.db.write(disable))


@router.post(
    "/{application_id}/keys",
    status_code=HTTPStatus.CREATED,
    responses={**_ERRORS_OF_ONE, **REFUSALS, **responses(HTTPStatus.CONFLICT)},
    openapi_extra=described(NewKey),
)
async def make_key(
    use: ResourcesDep,
    _caller: AdminDep,
    actor: ActorDep,
    application_id: ApplicationId,
    body: Annotated[NewKey, Depends(json_body(NewKey))],
) -> MadeKey:
    """Create a key of an application, which is shown only in this response. Requires the scope `admin`."""
    return await make_key_in(use, actor, application_id, body)


async def make_key_in(
    use: Resources, actor: Actor, application_id: str, body: NewKey, key_id: str | None = None
) -> MadeKey:
    """Create a key of an application. Raises NotFound, and Conflict for a disabled application or a `key_id` in use."""

    def check(connection: Connection) -> None:
        if _get(connection, application_id).disabled_at is not None:
            raise Conflict("the application is disabled")

    return await make_key_of(use, actor, body, application_id, check, key_id)


def _get(connection: Connection, application_id: str) -> Application:
    application = applications.get(connection, application_id)
    if application is None:
        raise NotFound("there is no such application")
    return application
