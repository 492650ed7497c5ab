"""The page at `/`: the latest tasks with their images. It is rendered without scripts; signing in sets a cookie."""

from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Receive, Scope, Send

from app.db import Connection
from app.db.tables import results, tasks
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.web.auth import COOKIE, ResourcesDep, by_secret, find_caller, new_session
from app.web.body import bounded

_HERE = Path(__file__).parents[1]
_SHOWN = 24
_MAX_FORM_BYTES = 4096  # small, because the form requires no key
_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
router = APIRouter(include_in_schema=False)


class _Static(StaticFiles):
    """Static files without ranges: the response to an invalid range would not be an error document."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


static = _Static(directory=_HERE / "static")


@router.get("/")
async def page(request: Request, use: ResourcesDep) -> Response:
    """Show the latest tasks or, without a valid key or session, the sign-in form."""
    if await find_caller(request, use) is None:
        return _render("sign_in.html", HTTPStatus.UNAUTHORIZED, wrong=False)

    def read(connection: Connection) -> tuple[list[Task], dict[str, Result]]:
        latest = tasks.newest(connection, limit=_SHOWN)
        return latest, results.of_tasks(connection, [task.id for task in latest])

    latest, images = await use.db.read(read)
    return _render("tasks.html", HTTPStatus.OK, tasks=latest, results=images)


@router.post("/session")
async def sign_in(request: Request, use: ResourcesDep) -> Response:
    """Exchange an API key for a session cookie, which allows only reading, and only from this site."""
    form = await bounded(request, _MAX_FORM_BYTES, f"the form must not exceed {_MAX_FORM_BYTES} bytes").body()
    secret = parse_qs(form.decode(errors="replace")).get("key", [""])[0]
    key = await by_secret(use, secret.strip())
    if key is None:
        return _render("sign_in.html", HTTPStatus.UNAUTHORIZED, wrong=True)
    response = RedirectResponse("/", HTTPStatus.SEE_OTHER, _HEADERS)
    secure = request.url.scheme == "https" or (use.public_url or "").startswith("https:")
    response.set_cookie(COOKIE, new_session(use, key), httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/session/end")
async def sign_out() -> Response:
    response = RedirectResponse("/", HTTPStatus.SEE_OTHER, _HEADERS)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _render(name: str, status: HTTPStatus, **values: object) -> HTMLResponse:
    return HTMLResponse(templates.get_template(name).render(values), status, _HEADERS)
