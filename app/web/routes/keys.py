"""API keys: who may ask, and where each wants to be told. For keys with the scope `*` alone."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from app import ids
from app.db import Connection
from app.db.tables import api_keys
from app.db.tables.api_keys import Key
from app.errors import Conflict, NotFound
from app.params import Webhook
from app.web.auth import AdminDep, ResourcesDep, digest_of
from app.web.body import REFUSALS, described, json_body
from app.web.problems import responses
from app.web.schemas.tasks import WebhookView
from app.webhooks import subscription

router = APIRouter(prefix="/v1/keys", tags=["keys"])

_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)
_REFUSALS = {**_ERRORS, **REFUSALS}
_ERRORS_OF_ONE = {**_ERRORS, **responses(HTTPStatus.NOT_FOUND)}

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class NewKey(Webhook):
    """A key to be made. Its webhook fields count for tasks that do not say themselves."""

    name: Name
    scopes: Annotated[
        list[Literal["*"]],
        Field(max_length=1, description="`*` may manage keys and see the deliveries and the usage of all of them."),
    ] = Field(default_factory=list)


class KeyChange(Webhook):
    """What to change; a field that is not there stays, a webhook field that is null is forgotten."""

    name: Name | None = None


class KeyView(BaseModel):
    id: str
    name: str
    scopes: list[str]
    webhook: Annotated[WebhookView | None, Field(description="Where tasks are told that do not say themselves.")]
    created_at: datetime
    disabled_at: datetime | None


class MadeKey(KeyView):
    key: Annotated[str, Field(description="The key itself. It is shown here, and nowhere again.")]


class KeyList(BaseModel):
    keys: list[KeyView]


def _known_form(key_id: Annotated[str, Path(description="The key's id.")]) -> str:
    if key_id != api_keys.ADMIN_ID and not ids.is_id("key", key_id):
        raise NotFound("there is no such key")
    return key_id


KeyId = Annotated[str, Depends(_known_form)]


@router.get("", responses=_ERRORS)
async def list_keys(use: ResourcesDep, _asking: AdminDep) -> KeyList:
    """All keys, newest first, without the keys themselves."""
    return KeyList(keys=[_view(each) for each in await use.db.read(api_keys.every)])


@router.post("", status_code=HTTPStatus.CREATED, responses=_REFUSALS, openapi_extra=described(NewKey))
async def make_key(
    use: ResourcesDep, _asking: AdminDep, given: Annotated[NewKey, Depends(json_body(NewKey))]
) -> MadeKey:
    """Make a key."""
    subscription.check(use, given)
    now, secret = use.now(), ids.new_key()
    key_id = ids.new_id("key", now)
    row = {"id": key_id, "name": given.name, "sha256": digest_of(secret), "scopes": given.scopes, "created_at": now}
    row |= subscription.defaults(use.keys, key_id, given)

    def make(connection: Connection) -> Key:
        api_keys.put(connection, **row)
        return _get(connection, key_id)

    return MadeKey(**dict(_view(await use.db.write(make))), key=secret)


@router.patch("/{key_id}", responses={**_REFUSALS, **_ERRORS_OF_ONE}, openapi_extra=described(KeyChange))
async def change_key(
    use: ResourcesDep, _asking: AdminDep, key_id: KeyId, given: Annotated[KeyChange, Depends(json_body(KeyChange))]
) -> KeyView:
    """Rename a key, or change where it wants to be told."""
    subscription.check(use, given)
    values = subscription.defaults(use.keys, key_id, given)
    values |= {"name": given.name} if given.name is not None else {}

    def change(connection: Connection) -> Key:
        _get(connection, key_id)
        if values:
            api_keys.change(connection, key_id, **values)
        return _get(connection, key_id)

    return _view(await use.db.write(change))


@router.delete("/{key_id}", responses={**_ERRORS_OF_ONE, **responses(HTTPStatus.CONFLICT)})
async def disable_key(use: ResourcesDep, asking: AdminDep, key_id: KeyId) -> KeyView:
    """Disable a key for good. It stays in the list, because tasks name it."""
    if key_id in {asking.key_id, api_keys.ADMIN_ID}:
        raise Conflict("neither the key that asks nor the operator's own can be disabled here")

    def disable(connection: Connection) -> Key:
        api_keys.disable(connection, key_id, use.now())
        return _get(connection, key_id)

    return _view(await use.db.write(disable))


def _get(connection: Connection, key_id: str) -> Key:
    found = api_keys.get(connection, key_id)
    if found is None:
        raise NotFound("there is no such key")
    return found


def _view(key: Key) -> KeyView:
    webhook = None
    if key.webhook_url is not None:
        form, events = key.webhook_form or "provider", list(key.webhook_events or ())
        webhook = WebhookView(url=key.webhook_url, form=form, events=events)
    names = ("id", "name", "scopes", "created_at", "disabled_at")
    return KeyView(**{name: getattr(key, name) for name in names}, webhook=webhook)
