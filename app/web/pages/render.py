"""Rendering: templates, the headers of every page, and routes whose errors are pages."""

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Receive, Scope, Send

from app.errors import FluxhookError
from app.web import problems
from app.web.pages import words

_HERE = Path(__file__).parents[1]
HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters |= words.FILTERS
# The entries of the navigation, by path: for all keys, and for those with the scope `admin`.
templates.globals["sections"] = {
    "/": "Overview",
    "/tasks": "Tasks",
    "/new": "New task",
    "/callbacks": "Callbacks",
    "/deliveries": "Deliveries",
    "/applications": "Applications",
}
templates.globals["admin_sections"] = {"/accounts": "Accounts", "/audit": "Audit", "/settings": "Settings"}


class _Static(StaticFiles):
    """Static files without ranges: the response to an invalid range would not be an error document."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


static = _Static(directory=_HERE / "static")


class SignInRequired(Exception):
    """The page needs a session, and the request has none."""


class PageRoute(APIRoute):
    """A route whose errors are pages: the sign-in form without a session, and a page that says what was wrong.

    The OpenAPI document leaves it out.
    """

    def __init__(self, path: str, endpoint: Callable[..., object], **options: Any) -> None:
        super().__init__(path, endpoint, **options | {"include_in_schema": False})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except SignInRequired:
                return sign_in_form(request)
            except FluxhookError as error:
                problems.answer(error)  # for the log line
                return error_page(request, error)
            except RequestValidationError as error:
                invalid = problems.invalid([{**found, "loc": found["loc"][1:2]} for found in error.errors()])
                return error_page(request, invalid)

        return handle


def fragment(name: str, values: Mapping[str, object]) -> str:
    """Render a part of a page."""
    return templates.get_template(name).render(values)


def render(name: str, status: HTTPStatus = HTTPStatus.OK, **values: object) -> HTMLResponse:
    """Render a page. A page with navigation needs `visitor`, and `section`, the path of its entry there."""
    return HTMLResponse(fragment(name, values), status, HEADERS)


def sign_in_form(request: Request, *, wrong: bool = False, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> Response:
    """Return the form that leads back to the page of this request."""
    path, query = request.url.path, request.url.query
    here = f"{path}?{query}" if query else path
    return render("sign_in.html", status, wrong=wrong, back="/" if request.method == "POST" else here)


def error_page(request: Request, error: FluxhookError) -> Response:
    """Return the page of an error. It has the navigation once the visitor is known: not if the database is down."""
    visitor = getattr(request.state, "visitor", None)
    response = render("error.html", HTTPStatus(error.status), error=error, visitor=visitor, section=None)
    if error.retryable:
        response.headers["retry-after"] = problems.RETRY_AFTER_S
    return response
