"""The forms that create, change, disable and enable applications, for keys with the scope `admin`."""

from http import HTTPStatus
from types import MappingProxyType

from fastapi import APIRouter, Response
from pydantic import ValidationError

from app.db.tables.applications import Application
from app.errors import Conflict
from app.resources import Policy
from app.rules.scopes import Scope
from app.transitions.limits import effective
from app.web.auth import ResourcesDep
from app.web.pages.access import AdminVisitorDep, FormDep, Visitor
from app.web.pages.application_pages import SECTION
from app.web.pages.application_values import (
    Values,
    changes,
    contradictions,
    limit_fields,
    members_of,
    values_of,
    version_of,
)
from app.web.pages.form_values import form_id, new_form_id, reasons
from app.web.pages.questions import Question, ask_about_queue, ask_once, links, queued
from app.web.pages.render import PageRoute, render
from app.web.pages.session import see_other
from app.web.path_ids import ApplicationId
from app.web.routes import applications
from app.web.schemas.applications import (
    ApplicationChangeBody,
    ApplicationView,
    NewApplicationBody,
    application_view,
)

router = APIRouter(route_class=PageRoute)


class _StaleError(Conflict):
    """The form shows the application as it was before another change."""


_NOTHING: Values = MappingProxyType({})
_DISABLE = Question(
    "Disable this application?",
    "All its keys are refused until it is enabled again. Their streams and waiting requests end within seconds.",
    "Disable the application",
)
_ENABLE = Question(
    "Enable this application?",
    "Its keys open it again, as before. Tasks that were cancelled stay cancelled.",
    "Enable the application",
)


@router.get("/applications/new")
async def show_new_application(use: ResourcesDep, visitor: AdminVisitorDep) -> Response:
    return _new_form(use, visitor, {"once": new_form_id(use, visitor, "app")})


@router.post("/applications")
async def make_application(use: ResourcesDep, form: FormDep) -> Response:
    """Create an application. A form that is sent again leads to the application that it has made."""
    form.visitor.caller.require(Scope.ADMIN)
    application_id = form_id(use, form, "app")
    problems = contradictions(form.fields)
    if problems:
        return _new_form(use, form.visitor, form.fields, problems)
    try:
        body = NewApplicationBody.model_validate(members_of(form.fields))
        await applications.make_application_as(use, form.actor, body, application_id)
    except ValidationError as error:
        return _new_form(use, form.visitor, form.fields, reasons(error))
    except Conflict:
        return see_other(f"{SECTION}/{application_id}")
    return see_other(f"{SECTION}/{application_id}?done=made")


@router.get("/applications/{application_id}/change")
async def show_change(use: ResourcesDep, visitor: AdminVisitorDep, application_id: ApplicationId) -> Response:
    application = await applications.get_application(use, visitor.caller, application_id)
    return _change_form(use, visitor, application, values_of(application))


@router.post("/applications/{application_id}/change")
async def change_application(use: ResourcesDep, form: FormDep, application_id: ApplicationId) -> Response:
    """Change what differs. A form that shows an application as it was before another change is not carried out."""
    form.visitor.caller.require(Scope.ADMIN)
    seen = form.fields.get("version", "")

    def check(before: Application) -> None:
        if version_of(application_view(before)) != seen:
            raise _StaleError("the application was changed meanwhile")

    application = await applications.get_application(use, form.visitor.caller, application_id)
    problems = contradictions(form.fields)
    if problems:
        return _change_form(use, form.visitor, application, form.fields, problems)
    try:
        body = changes(application, ApplicationChangeBody.model_validate(members_of(form.fields)))
        if not body.model_fields_set and version_of(application) == seen:
            return see_other(f"{SECTION}/{application_id}?done=unchanged")
        await applications.change_application_if(use, form.actor, application_id, body, check)
    except ValidationError as error:
        return _change_form(use, form.visitor, application, form.fields, reasons(error))
    except _StaleError:
        application = await applications.get_application(use, form.visitor.caller, application_id)
        return _change_form(use, form.visitor, application, values_of(application), is_stale=True)
    return see_other(f"{SECTION}/{application_id}?done=changed")


@router.get("/applications/{application_id}/disable")
async def ask_to_disable(use: ResourcesDep, visitor: AdminVisitorDep, application_id: ApplicationId) -> Response:
    application = await applications.get_application(use, visitor.caller, application_id)
    here = f"{SECTION}/{application_id}"
    return ask_about_queue(visitor, SECTION, _DISABLE, about=application.name, action=f"{here}/disable", back=here)


@router.post("/applications/{application_id}/disable")
async def disable_application(use: ResourcesDep, form: FormDep, application_id: ApplicationId) -> Response:
    form.visitor.caller.require(Scope.ADMIN)
    await applications.disable_application(
        use, form.visitor.caller, form.actor, application_id, queued(form), links(form)
    )
    return see_other(f"{SECTION}/{application_id}?done=disabled")


@router.get("/applications/{application_id}/enable")
async def ask_to_enable(use: ResourcesDep, visitor: AdminVisitorDep, application_id: ApplicationId) -> Response:
    application = await applications.get_application(use, visitor.caller, application_id)
    here = f"{SECTION}/{application_id}"
    return ask_once(visitor, SECTION, _ENABLE, about=application.name, action=f"{here}/enable", back=here)


@router.post("/applications/{application_id}/enable")
async def enable_application(use: ResourcesDep, form: FormDep, application_id: ApplicationId) -> Response:
    form.visitor.caller.require(Scope.ADMIN)
    body = ApplicationChangeBody(disabled=False)
    await applications.change_application(use, form.visitor.caller, form.actor, application_id, body)
    return see_other(f"{SECTION}/{application_id}?done=enabled")


def _new_form(use: Policy, visitor: Visitor, values: Values, problems: Values = _NOTHING) -> Response:
    return render(
        "application_form.html",
        HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        visitor=visitor,
        section=SECTION,
        application=None,
        version="",
        limits=limit_fields(use.limits),
        values=values,
        problems=problems,
        is_stale=False,
    )


def _change_form(
    use: Policy,
    visitor: Visitor,
    application: ApplicationView,
    values: Values,
    problems: Values = _NOTHING,
    *,
    is_stale: bool = False,
) -> Response:
    status = HTTPStatus.CONFLICT if is_stale else HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK
    return render(
        "application_form.html",
        status,
        visitor=visitor,
        section=SECTION,
        application=application,
        version=values.get("version", version_of(application)),
        limits=limit_fields(effective(use.limits, application.id, None)),
        values=values,
        problems=problems,
        is_stale=is_stale,
    )
