"""API keys: list, create, change and revoke them."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from app import ids, jobs
from app.db import Connection
from app.db.tables import api_keys
from app.db.tables.api_keys import ApiKeyChange, Key, NewApiKey
from app.db.tables.webhook_defaults import UNCHANGED
from app.errors import Conflict, Forbidden, InvalidRequest, NotFound
from app.jobs import NewJob, Step
from app.resources import Resources
from app.transitions import audit
from app.transitions.audit import Action, Actor
from app.web.auth import ActorDep, AdminDep, ManagerDep, ResourcesDep, digest_of
from app.web.body import REFUSALS, described, json_body
from app.web.known_query import KnownQuery
from app.web.paging import MAX_ROWS, page_of
from app.web.path_ids import KeyId
from app.web.problems import responses
from app.web.schemas.keys import KeyChange, KeyList, KeyView, MadeKey, NewKey, key_view
from app.webhooks import subscription
from app.worker.sweep import NO_TASK

Queued = Annotated[
    Literal["stop", "finish"],
    Query(description="What becomes of the queued tasks of what is disabled: they are cancelled, or carried out."),
]
Links = Annotated[
    Literal["keep", "end"],
    Query(description="Whether links to images that need no key go on: those in answers to a key, and of its tasks."),
]

router = APIRouter(prefix="/v1/keys", tags=["keys"])

_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)
_REFUSALS = {**_ERRORS, **REFUSALS}
_ERRORS_OF_ONE = {**_ERRORS, **responses(HTTPStatus.NOT_FOUND)}


@router.get("", responses={**_ERRORS, **responses(HTTPStatus.UNPROCESSABLE_ENTITY)}, dependencies=[KnownQuery])
async def list_keys(
    use: ResourcesDep,
    caller: ManagerDep,
    cursor: Annotated[
        str | None,
        Query(
            pattern=f"{ids.pattern('key')}|^{api_keys.ADMIN_ID}$", description="The `next_cursor` of the previous page."
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="Maximum number of keys in the page.")] = MAX_ROWS,
) -> KeyList:
    """List the API keys of the calling application, or of all with the scope `admin`, newest first."""
    page, next_cursor = page_of(await use.db.read(api_keys.newest, limit + 1, cursor, caller.owner), limit)
    return KeyList(keys=[key_view(key) for key in page], next_cursor=next_cursor)


@router.post("", status_code=HTTPStatus.CREATED, responses=_REFUSALS, openapi_extra=described(NewKey))
async def make_key(
    use: ResourcesDep, _caller: AdminDep, actor: ActorDep, body: Annotated[NewKey, Depends(json_body(NewKey))]
) -> MadeKey:
    """Create an API key, and an application of its name that it opens. Requires the scope `admin`."""
    return await make_key_of(use, actor, body)


async def make_key_of(
    use: Resources,
    actor: Actor,
    body: NewKey,
    application_id: str | None = None,
    check: Callable[[Connection], None] = lambda _connection: None,
    key_id: str | None = None,
) -> MadeKey:
    """Create a key of an application, or of a new one if that is None. `check` runs in the same transaction.

    `key_id`: the id that a form has chosen. Raises Conflict if it has made its key already.
    """
    await subscription.check(use, body)
    now, secret = use.now(), ids.new_api_key()
    if body.expires_at is not None and body.expires_at <= now:
        raise InvalidRequest("expires_at: is in the past", {"expires_at": "is in the past"})
    key_id = key_id or ids.new_id("key", now)
    key = NewApiKey(
        id=key_id,
        name=body.name,
        sha256=digest_of(secret),
        scopes=body.scopes,
        created_at=now,
        webhook=subscription.defaults(use.keys, key_id, body),
        application_id=application_id,
        prefix=secret[: ids.PREFIX_LENGTH],
        expires_at=body.expires_at,
        region=body.region,
    )

    def make(connection: Connection) -> Key:
        check(connection)
        if not api_keys.insert(connection, key):
            raise Conflict(
                "this form was already sent and has made its key, which was shown then and cannot be shown again: if "
                "it was not copied, revoke it and make another"
            )
        scopes = " ".join(key.scopes)
        audit.record(connection, actor, Action.KEY_CREATED, key_id, now, {"scopes": scopes})
        return _get(connection, key_id, None)

    return MadeKey(**dict(key_view(await use.db.write(make))), key=secret)


@router.patch("/{key_id}", responses={**_REFUSALS, **_ERRORS_OF_ONE}, openapi_extra=described(KeyChange))
async def change_key(
    use: ResourcesDep,
    caller: ManagerDep,
    actor: ActorDep,
    key_id: KeyId,
    body: Annotated[KeyChange, Depends(json_body(KeyChange))],
) -> KeyView:
    """Change the name, the default webhook or the region of an API key of the application.

    The region requires the scope `admin`.
    """
    await subscription.check(use, body)
    region = body.region if "region" in body.model_fields_set else UNCHANGED
    if region is not UNCHANGED and caller.owner is not None:
        raise Forbidden("the region of a key can be changed only with the scope `admin`")
    changes = ApiKeyChange(body.name, subscription.defaults(use.keys, key_id, body), region)

    def change(connection: Connection) -> Key:
        _get(connection, key_id, caller.owner)
        api_keys.change(connection, key_id, changes)
        changed = " ".join(sorted(body.model_fields_set))
        audit.record(connection, actor, Action.KEY_CHANGED, key_id, use.now(), {"changed": changed})
        return _get(connection, key_id, caller.owner)

    return key_view(await use.db.write(change))


@router.delete(
    "/{key_id}", responses={**_ERRORS_OF_ONE, **responses(HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)}
)
async def disable_key(
    use: ResourcesDep,
    caller: AdminDep,
    actor: ActorDep,
    key_id: KeyId,
    queued: Queued = "stop",
    links: Links = "keep",
) -> KeyView:
    """Revoke an API key permanently. It stays in the list, because tasks refer to it. Requires the scope `admin`.

    All processes refuse it at once, and end its open streams and waiting requests within seconds.
    """
    if key_id in {caller.key_id, api_keys.ADMIN_ID}:
        raise Conflict("the calling key and the operator's admin key cannot be disabled")
    stop, end = queued == "stop", links == "end"

    def disable(connection: Connection) -> Key:
        now, before = use.now(), _get(connection, key_id, None)
        api_keys.disable(connection, key_id, now, stop_queued=stop and before.disabled_at is None, end_links=end)
        if before.disabled_at is None:
            if stop:
                jobs.enqueue(connection, [NewJob(Step.SWEEP, NO_TASK, now)])
            audit.record(connection, actor, Action.KEY_DISABLED, key_id, now, {"queued": queued, "links": links})
        return _get(connection, key_id, None)

    return key_view(await use.db.write(disable))


def _get(connection: Connection, key_id: str, owner: str | None) -> Key:
    key = api_keys.get(connection, key_id)
    if key is None or owner not in {None, key.application_id}:
        raise NotFound("there is no such key")
    return key
