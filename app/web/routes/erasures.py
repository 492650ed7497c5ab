"""Erase all tasks of an end user, and the receipts of erasures."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import JSONResponse

from app import ids
from app.db import Connection
from app.db.tables import erasures
from app.db.tables.erasures import ErasedItem, Erasure
from app.errors import NotFound
from app.resources import Resources
from app.transitions import audit
from app.transitions.audit import Action
from app.transitions.erase import request_user
from app.web.auth import ActorDep, Caller, ManagerDep, ReaderDep, ResourcesDep
from app.web.known_query import KnownQuery
from app.web.paging import page_of
from app.web.path_ids import ErasureId
from app.web.problems import USUAL_ERRORS, responses
from app.web.schemas.erasures import PURPOSE, ErasureList, PublicKey, PublicKeys, Receipt, receipt_view

router = APIRouter(prefix="/v1", tags=["erasures"])
_ITEMS = 1000  # erased tasks in one answer
_ERRORS_OF_ONE = {**USUAL_ERRORS, **responses(HTTPStatus.NOT_FOUND)}


@router.delete(
    "/users/{user:path}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Receipt,
    dependencies=[KnownQuery],
    responses={
        HTTPStatus.OK: {"model": Receipt, "description": "The user has no tasks: the latest receipt."},
        **_ERRORS_OF_ONE,
    },
)
async def erase_user(
    use: ResourcesDep,
    caller: ManagerDep,
    actor: ActorDep,
    user: Annotated[str, Path(min_length=1, max_length=256, description="The end user, percent-encoded.")],
    application_id: Annotated[
        str | None,
        Query(max_length=48, description="Only with the scope `admin`: of this application instead of the key's own."),
    ] = None,
) -> Response:
    """Erase all tasks of an end user that were posted until now, with their images and evidence.

    Finished tasks are erased in the background, queued ones are cancelled, and a task at the provider is erased when it
    has ended. The receipt shows the progress. A repeated request gets the same receipt while it is in progress.
    """
    if application_id is not None and caller.owner not in {None, application_id}:
        raise NotFound("there is no such application")
    owner = application_id or caller.application_id

    def request(connection: Connection) -> Erasure | None:
        now = use.now()
        erasure, is_new = request_user(connection, owner, user, now)
        if erasure is not None and is_new:
            audit.record(connection, actor, Action.USER_ERASED, erasure.id, now)
        return erasure

    erasure = await use.db.write(request)
    if erasure is None:
        raise NotFound("there is no task of this user")
    receipt = await _receipt(use, erasure.id, caller, None)
    status = HTTPStatus.OK if erasure.finished_at is not None else HTTPStatus.ACCEPTED
    return JSONResponse(receipt.model_dump(mode="json"), status, {"location": f"/v1/erasures/{erasure.id}"})


@router.get("/erasures", responses=USUAL_ERRORS, dependencies=[KnownQuery])
async def list_erasures(
    use: ResourcesDep,
    caller: ReaderDep,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("ers"), description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of erasures in the page.")] = 20,
) -> ErasureList:
    """List the receipts of the application, newest first, without the erased tasks; with the scope `admin`, of all."""
    rows = await use.db.read(erasures.newest, application_id=caller.owner, limit=limit + 1, before=cursor)
    page, next_cursor = page_of(rows, limit)
    return ErasureList(erasures=[receipt_view(use.keys, row, ()) for row in page], next_cursor=next_cursor)


@router.get(
    "/erasures/keys",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_public_keys(use: ResourcesDep, _caller: ReaderDep) -> PublicKeys:
    """List the public keys that verify receipts, newest first."""
    keys = [PublicKey(id=key_id, public_key=key) for key_id, key in use.keys.public_keys(PURPOSE).items()]
    return PublicKeys(keys=keys)


@router.get("/erasures/{erasure_id}", responses=_ERRORS_OF_ONE, dependencies=[KnownQuery])
async def get_erasure(
    use: ResourcesDep,
    caller: ReaderDep,
    erasure_id: ErasureId,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("task"), description="The `next_cursor` of the previous page.")
    ] = None,
) -> Receipt:
    """Get the receipt of an erasure, with up to 1,000 of the erased tasks."""
    return await _receipt(use, erasure_id, caller, cursor)


async def _receipt(use: Resources, erasure_id: str, caller: Caller, cursor: str | None) -> Receipt:
    def read(connection: Connection) -> tuple[Erasure | None, list[ErasedItem]]:
        items = erasures.items(connection, erasure_id, limit=_ITEMS + 1, after=cursor)
        return erasures.get(connection, erasure_id), items

    erasure, items = await use.db.read(read)
    if erasure is None or caller.owner not in {None, erasure.application_id}:
        raise NotFound("there is no such erasure")
    next_cursor = items[_ITEMS - 1].task_id if len(items) > _ITEMS else None
    return receipt_view(use.keys, erasure, items[:_ITEMS], next_cursor)
