"""Signing in with an API key, which sets a cookie, and signing out, which ends the session on the server too."""

import re
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app.resources import Policy
from app.web import sessions
from app.web.auth import ResourcesDep, by_secret
from app.web.pages.access import FormDep, read_fields, require_same_site
from app.web.pages.render import HEADERS, PageRoute, sign_in_form
from app.web.sessions import COOKIE

_MAX_FORM_BYTES = 4096  # small, because the form requires no key
_OWN_PATH = re.compile(r"/(?:[\w-][\w/.=&%+?:-]*)?", re.ASCII)  # never `//host`

router = APIRouter(route_class=PageRoute)


@router.post("/session")
async def sign_in(request: Request, use: ResourcesDep) -> Response:
    """Exchange an API key for a session cookie, which only forms of this site can use to change anything."""
    require_same_site(request)  # another site could sign its visitors in as itself, and read what they then do
    fields = await read_fields(request, _MAX_FORM_BYTES)
    key = await by_secret(request, use, fields.get("key", "").strip())
    if key is None:
        return sign_in_form(request, wrong=True)
    back = fields.get("back", "/")
    response = see_other(back if _OWN_PATH.fullmatch(back) else "/")
    cookie = sessions.new_cookie(use, key)
    response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=_is_https(request, use))
    return response


@router.post("/session/end")
async def sign_out(use: ResourcesDep, form: FormDep) -> Response:
    if form.visitor.session is not None:
        await sessions.end(use, form.visitor.session)
    response = see_other("/")
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def see_other(path: str) -> RedirectResponse:
    """Return the answer to a form that was carried out: show this page."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER, HEADERS)


def _is_https(request: Request, use: Policy) -> bool:
    return request.url.scheme == "https" or (use.public_url or "").startswith("https:")
