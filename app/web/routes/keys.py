"""API keys: list, create, change and disable them. Requires the scope `*`."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from app import ids
from app.db import Connection
from app.db.tables import api_keys
from app.db.tables.api_keys import ApiKeyChange, Key, NewApiKey
from app.errors import Conflict, NotFound
from app.params import Webhook
from app.web.auth import AdminDep, ResourcesDep, digest_of
from app.web.body import REFUSALS, described, json_body
from app.web.known_query import KnownQuery
from app.web.path_ids import KeyId
from app.web.problems import responses
from app.web.schemas.tasks import WebhookView
from app.webhooks import subscription

router = APIRouter(prefix="/v1/keys", tags=["keys"])

_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)
_REFUSALS = {**_ERRORS, **REFUSALS}
_ERRORS_OF_ONE = {**_ERRORS, **responses(HTTPStatus.NOT_FOUND)}

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]


class NewKey(Webhook):
    """A new API key. Its webhook fields are the defaults for tasks that omit them."""

    name: Name
    scopes: Annotated[
        list[Literal["*"]],
        Field(
            max_length=1,
            description="`*` allows managing keys, and access to the deliveries, endpoints and usage of all keys.",
        ),
    ] = Field(default_factory=list)


class KeyChange(Webhook):
    """The fields to change. An omitted field is unchanged; null removes a webhook field."""

    name: Name | None = None


class KeyView(BaseModel):
    id: str
    name: str
    scopes: list[str]
    webhook: Annotated[WebhookView | None, Field(description="The default webhook of the key's tasks.")]
    created_at: datetime
    disabled_at: datetime | None


class MadeKey(KeyView):
    key: Annotated[str, Field(description="The API key itself. It is returned only in this response.")]


class KeyList(BaseModel):
    keys: list[KeyView]


@router.get("", responses={**_ERRORS, **responses(HTTPStatus.UNPROCESSABLE_ENTITY)}, dependencies=[KnownQuery])
async def list_keys(use: ResourcesDep, _caller: AdminDep) -> KeyList:
    """List all API keys, newest first, without the keys themselves. Requires the scope `*`."""
    return KeyList(keys=[_view(key) for key in await use.db.read(api_keys.list_all)])


@router.post("", status_code=HTTPStatus.CREATED, responses=_REFUSALS, openapi_extra=described(NewKey))
async def make_key(
    use: ResourcesDep, _caller: AdminDep, body: Annotated[NewKey, Depends(json_body(NewKey))]
) -> MadeKey:
    """Create an API key. Requires the scope `*`."""
    subscription.check(use, body)
    now, secret = use.now(), ids.new_key()
    key_id = ids.new_id("key", now)
    webhook = subscription.defaults(use.keys, key_id, body)
    key = NewApiKey(key_id, body.name, digest_of(secret), body.scopes, now, webhook)

    def make(connection: Connection) -> Key:
        api_keys.put(connection, key)
        return _get(connection, key_id)

    return MadeKey(**dict(_view(await use.db.write(make))), key=secret)


@router.patch("/{key_id}", responses={**_REFUSALS, **_ERRORS_OF_ONE}, openapi_extra=described(KeyChange))
async def change_key(
    use: ResourcesDep, _caller: AdminDep, key_id: KeyId, body: Annotated[KeyChange, Depends(json_body(KeyChange))]
) -> KeyView:
    """Change the name or the default webhook of an API key. Requires the scope `*`."""
    subscription.check(use, body)
    changes = ApiKeyChange(body.name, subscription.defaults(use.keys, key_id, body))

    def change(connection: Connection) -> Key:
        _get(connection, key_id)
        api_keys.change(connection, key_id, changes)
        return _get(connection, key_id)

    return _view(await use.db.write(change))


@router.delete("/{key_id}", responses={**_ERRORS_OF_ONE, **responses(HTTPStatus.CONFLICT)})
async def disable_key(use: ResourcesDep, caller: AdminDep, key_id: KeyId) -> KeyView:
    """Disable an API key permanently. It stays in the list, because tasks refer to it. Requires the scope `*`."""
    if key_id in {caller.key_id, api_keys.ADMIN_ID}:
        raise Conflict("the calling key and the operator's admin key cannot be disabled")

    def disable(connection: Connection) -> Key:
        api_keys.disable(connection, key_id, use.now())
        return _get(connection, key_id)

    return _view(await use.db.write(disable))


def _get(connection: Connection, key_id: str) -> Key:
    key = api_keys.get(connection, key_id)
    if key is None:
        raise NotFound("there is no such key")
    return key


def _view(key: Key) -> KeyView:
    webhook = None
    if key.webhook_url is not None:
        form, events = key.webhook_form or "provider", list(key.webhook_events or ())
        webhook = WebhookView(url=key.webhook_url, form=form, events=events)
    names = ("id", "name", "scopes", "created_at", "disabled_at")
    return KeyView(**{name: getattr(key, name) for name in names}, webhook=webhook)
