"""The forms that create and revoke API keys, for keys with the scope `admin`."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from fastapi import APIRouter, Response
from pydantic import ValidationError

from app.db.tables import api_keys
from app.db.tables.api_keys import Key
from app.errors import InvalidRequest, NotFound
from app.resources import Connections
from app.rules.json_value import JsonValue
from app.rules.scopes import DEFAULT, Scope
from app.web.auth import ResourcesDep
from app.web.pages.access import AdminVisitorDep, FormDep, Visitor
from app.web.pages.application_pages import SECTION
from app.web.pages.form_values import form_id, new_form_id, reasons
from app.web.pages.questions import Question, ask_about_queue, links, queued
from app.web.pages.render import PageRoute, render
from app.web.pages.session import see_other
from app.web.path_ids import ApplicationId, KeyId
from app.web.routes import applications, keys
from app.web.schemas.applications import ApplicationView
from app.web.schemas.keys import NewKey

router = APIRouter(route_class=PageRoute)

_NOTHING: Mapping[str, str] = MappingProxyType({})
_REVOKE = Question(
    "Revoke this key?",
    "It is refused from now on, for good. Its streams and waiting requests end within seconds.",
    "Revoke the key",
)


@router.get("/applications/{application_id}/keys/new")
async def show_new_key(use: ResourcesDep, visitor: AdminVisitorDep, application_id: ApplicationId) -> Response:
    application = await applications.get_application(use, visitor.caller, application_id)
    scopes = dict.fromkeys((f"scope_{scope}" for scope in DEFAULT), "on")
    return _key_form(visitor, application, {"once": new_form_id(use, visitor, "key"), **scopes})


@router.post("/applications/{application_id}/keys")
async def make_key(use: ResourcesDep, form: FormDep, application_id: ApplicationId) -> Response:
    """Create a key. The answer is the only page that shows it: a redirect would have to keep it somewhere.

    So reloading the answer sends the form again, which is refused and makes no second key.
    """
    form.visitor.caller.require(Scope.ADMIN)
    key_id = form_id(use, form, "key")
    application = await applications.get_application(use, form.visitor.caller, application_id)
    try:
        body = NewKey.model_validate(_members(form.fields))
        made = await applications.make_key_in(use, form.actor, application_id, body, key_id)
    except ValidationError as error:
        return _key_form(form.visitor, application, form.fields, reasons(error))
    except InvalidRequest as error:
        return _key_form(form.visitor, application, form.fields, error.fields)
    return render(
        "key_made.html",
        HTTPStatus.CREATED,
        visitor=form.visitor,
        section=SECTION,
        application=application,
        made=made,
    )


@router.get("/applications/{application_id}/keys/{key_id}/revoke")
async def ask_to_revoke(
    use: ResourcesDep, visitor: AdminVisitorDep, application_id: ApplicationId, key_id: KeyId
) -> Response:
    key = await _key_of(use, application_id, key_id)
    here = f"{SECTION}/{application_id}"
    action = f"{here}/keys/{key_id}/revoke"
    return ask_about_queue(visitor, SECTION, _REVOKE, about=key.name, action=action, back=here, prefix=key.prefix)


@router.post("/applications/{application_id}/keys/{key_id}/revoke")
async def revoke_key(use: ResourcesDep, form: FormDep, application_id: ApplicationId, key_id: KeyId) -> Response:
    form.visitor.caller.require(Scope.ADMIN)
    await _key_of(use, application_id, key_id)
    await keys.disable_key(use, form.visitor.caller, form.actor, key_id, queued(form), links(form))
    return see_other(f"{SECTION}/{application_id}?done=revoked")


async def _key_of(use: Connections, application_id: str, key_id: str) -> Key:
    """Return a key of an application. Raises NotFound."""
    key = await use.db.read(api_keys.get, key_id)
    if key is None or key.application_id != application_id:
        raise NotFound("there is no such key")
    return key


def _members(fields: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the members of the API's request. Raises InvalidRequest for a key without a scope."""
    scopes = [scope.value for scope in Scope if fields.get(f"scope_{scope}") == "on"]
    if not scopes:
        raise InvalidRequest("scopes: choose at least one", {"scopes": "choose at least one"})
    members: dict[str, JsonValue] = {"name": fields.get("name", "").strip(), "scopes": [*scopes]}
    if fields.get("expires"):
        members["expires_at"] = f"{fields['expires']}T00:00:00Z"
    if fields.get("webhook_url"):
        members["webhook_url"] = fields["webhook_url"].strip()
    return members


def _key_form(
    visitor: Visitor, application: ApplicationView, values: Mapping[str, str], problems: Mapping[str, str] = _NOTHING
) -> Response:
    return render(
        "key_new.html",
        HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        visitor=visitor,
        section=SECTION,
        application=application,
        scopes=_SCOPES,
        values=values,
        problems={"expires" if name == "expires_at" else name: reason for name, reason in problems.items()},
    )


_SCOPES: Mapping[Scope, str] = {
    Scope.SUBMIT: "post tasks, and submit failed ones again",
    Scope.READ: "see tasks, images, events, callbacks, webhooks and usage",
    Scope.MANAGE: "cancel and erase tasks, webhooks and their secret",
    Scope.METRICS: "the metrics of the service, and the balance of its provider",
    Scope.ADMIN: "everything, in all applications",
}
