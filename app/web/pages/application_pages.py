"""The pages `/applications` and `/applications/{id}`: keys with their scopes, the budget and what is spent, the limits.

A key with the scope `admin` sees all applications, any other key its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.db import Connection
from app.db.queries import application_list, overview
from app.db.queries.overview import Spend
from app.db.tables import api_keys, applications
from app.db.tables.api_keys import Key
from app.db.tables.applications import Application
from app.errors import NotFound
from app.resources import Resources
from app.rules.scopes import Scope
from app.web.auth import ResourcesDep
from app.web.pages.access import Visitor, VisitorDep
from app.web.pages.render import PageRoute, render
from app.web.paging import page_of
from app.web.routes.limits import get_limits

SECTION = "/applications"
DONE = {
    "changed": "The application is changed.",
    "unchanged": "Nothing differs from before, so nothing was changed.",
    "made": "The application is created. It has no key yet.",
    "revoked": "The key is revoked: it is refused from now on.",
    "disabled": "The application is disabled: its keys are refused.",
    "enabled": "The application is enabled again.",
}
_SHOWN = 50
_KEYS_SHOWN = 50
_ID = re.compile(r"app_\w{1,44}", re.ASCII)

router = APIRouter(prefix=SECTION, route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class KeyRow:
    key: Key
    scopes: str
    state: str
    may_be_revoked: bool


@dataclass(frozen=True, slots=True)
class _Found:
    application: Application
    keys: Sequence[Key]  # one more than are shown, if there are older ones
    spend: Spend


@router.get("")
async def show_applications(
    use: ResourcesDep, visitor: VisitorDep, before: Annotated[str, Query(pattern=r"^(app_\w{1,44})?$")] = ""
) -> Response:
    """List all applications for an admin, and show any other key its own."""
    if visitor.application_id is not None:
        return await _show(use, visitor, visitor.application_id)
    found = await use.db.read(application_list.page, use.now(), _SHOWN + 1, before or None)
    page = found[:_SHOWN]
    return render(
        "applications.html",
        visitor=visitor,
        section=SECTION,
        page=page,
        newest="" if before else None,
        older=f"before={page[-1].application.id}" if len(found) > _SHOWN else None,
    )


@router.get("/{application_id}")
async def show_application(
    use: ResourcesDep,
    visitor: VisitorDep,
    application_id: str,
    before: Annotated[str, Query(pattern=r"^(key_\w{1,44})?$")] = "",
    done: str = "",
) -> Response:
    """Show one application. `before`: only keys that are older than this one."""
    if not _ID.fullmatch(application_id) or visitor.application_id not in {None, application_id}:
        raise NotFound("there is no such application")
    return await _show(use, visitor, application_id, before, DONE.get(done))


async def _show(
    use: Resources, visitor: Visitor, application_id: str, before: str = "", done: str | None = None
) -> Response:
    allowed = await get_limits(use, visitor.caller, application_id)
    now = use.now()
    may_see_keys = Scope.MANAGE in visitor.caller.scopes
    found = await use.db.read(_read, application_id, now, before or None, with_keys=may_see_keys)
    page, older = page_of(found.keys, _KEYS_SHOWN)
    rows = [_row(visitor, key, now) for key in page]
    return render(
        "application.html",
        visitor=visitor,
        section=SECTION,
        application=found.application,
        allowed=allowed,
        spend=found.spend,
        keys=sorted(rows, key=lambda row: row.state != "active"),
        newest="" if before else None,
        older=f"before={older}" if older else None,
        may_see_keys=may_see_keys,
        is_admin=visitor.application_id is None,
        may_be_disabled=application_id not in {visitor.caller.application_id, applications.ADMIN_ID},
        done=done,
    )


def _read(connection: Connection, application_id: str, now: datetime, before: str | None, *, with_keys: bool) -> _Found:
    application = applications.get(connection, application_id)
    if application is None:
        raise NotFound("there is no such application")
    keys = api_keys.newest(connection, _KEYS_SHOWN + 1, before, application_id) if with_keys else []
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return _Found(application, keys, overview.spend(connection, application_id, midnight))


def _row(visitor: Visitor, key: Key, now: datetime) -> KeyRow:
    state = "active"
    if key.disabled_at is not None:
        state = "revoked"
    elif key.expires_at is not None and key.expires_at <= now:
        state = "expired"
    is_protected = key.id in {visitor.caller.key_id, api_keys.ADMIN_ID}
    scopes = ", ".join("admin" if scope == "*" else scope for scope in key.scopes) or "as in earlier versions"
    return KeyRow(key, scopes, state, visitor.application_id is None and state != "revoked" and not is_protected)
