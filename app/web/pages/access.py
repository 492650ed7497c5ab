"""Access to the pages: a session, or an API key in a header for reading.

A form is accepted only from this site: the cookie is `SameSite=Strict`, the browser must not state another origin, and
the form carries a token that is derived from the session.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request, Response

from app.db.tables import tasks
from app.db.tables.tasks import Task
from app.errors import FluxhookError, Forbidden, NotFound
from app.resources import Connections, Policy, Resources
from app.rules.scopes import Scope
from app.transitions.audit import Actor
from app.web import sessions
from app.web.auth import Caller, ResourcesDep, actor, caller_of, find_caller
from app.web.body import bounded
from app.web.pages.render import SignInRequired, error_page
from app.web.sessions import COOKIE, Session

_MAX_FORM_BYTES = 16 * 1024
_MAX_FIELDS = 100


@dataclass(frozen=True, slots=True)
class Visitor:
    """The caller of a page. `token` goes into its forms; it is empty without a session, and such forms are refused."""

    caller: Caller
    token: str
    session: Session | None

    @property
    def application_id(self) -> str | None:
        """The application whose tasks this visitor may see; None for all."""
        return self.caller.owner

    def may_see(self, task: Task) -> bool:
        return self.application_id in {None, task.application_id}


@dataclass(frozen=True, slots=True)
class Form:
    """A form that this site's page has sent, with its fields. Of a repeated field, the last value counts."""

    visitor: Visitor
    actor: Actor
    fields: dict[str, str]


async def _set_visitor(request: Request, use: Resources) -> Visitor | None:
    """Return the caller of a page, whom the page of an error has too; None without a session and a key."""
    caller = await find_caller(request, use)
    if caller is None:
        return None
    session = await find_session(request, use)
    token = "" if session is None else sessions.form_token(use, session)
    found = request.state.visitor = Visitor(caller, token, session)
    return found


def _visitor_with(scope: Scope) -> Callable[[Request, Resources], Awaitable[Visitor]]:
    """Return a dependency for pages that need this scope."""

    async def visitor(request: Request, use: ResourcesDep) -> Visitor:
        found = await _set_visitor(request, use)
        if found is None:
            raise SignInRequired
        found.caller.require(scope)
        return found

    return visitor


VisitorDep = Annotated[Visitor, Depends(_visitor_with(Scope.READ))]
AdminVisitorDep = Annotated[Visitor, Depends(_visitor_with(Scope.ADMIN))]


async def answer_browser(request: Request, error: FluxhookError) -> Response:
    """Return the page of an error outside of the routes of pages, with the navigation if the visitor can be found."""
    with suppress(Exception):  # whatever has led to the error may fail again
        await _set_visitor(request, request.app.state.use)
    return error_page(request, error)


async def require_own(use: Connections, visitor: Visitor, task_id: str) -> Task:
    """Return a task that this visitor may see. Raises NotFound."""
    task = await use.db.read(tasks.get, task_id)
    if task is None or not visitor.may_see(task):
        raise NotFound("there is no such task")
    return task


async def find_session(request: Request, use: Resources) -> Session | None:
    """Return the session of the request's cookie, or None."""
    return await sessions.read_cookie(use, request.cookies[COOKIE]) if COOKIE in request.cookies else None


async def poster(request: Request, use: ResourcesDep) -> Visitor:
    """Return the visitor who posts a form, before its body is read. Its token is still to be checked.

    Raises SignInRequired, and Forbidden for a form of another site.
    """
    session = await find_session(request, use)
    if session is None:
        raise SignInRequired
    require_same_site(request)  # first, so that no page for another site has the token
    found = request.state.visitor = Visitor(caller_of(request, session.key), sessions.form_token(use, session), session)
    return found


PosterDep = Annotated[Visitor, Depends(poster)]


def require_token(use: Policy, visitor: Visitor, token: str) -> None:
    """Raises Forbidden if the form does not carry the token of the visitor's session."""
    if visitor.session is None or not sessions.proves_form(use, visitor.session, token):
        raise Forbidden("the form is not one of this session: open its page again")


async def _form(request: Request, use: ResourcesDep, visitor: PosterDep) -> Form:
    fields = await read_fields(request)
    require_token(use, visitor, fields.get("token", ""))
    return Form(visitor, await actor(request, visitor.caller), fields)


FormDep = Annotated[Form, Depends(_form)]


async def read_fields(request: Request, limit: int = _MAX_FORM_BYTES) -> dict[str, str]:
    """Return the fields of a form that is not multipart. Raises TooLarge."""
    body = await bounded(request, limit, f"the form must not exceed {limit} bytes").body()
    try:
        pairs = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:  # too many fields
        return {}
    return dict(pairs)


def require_same_site(request: Request) -> None:
    """Raises Forbidden for a form of another site."""
    if not _is_same_site(request):
        raise Forbidden("the form comes from another site")


def _is_same_site(request: Request) -> bool:
    """Whether the headers of the browser, if it sends them, say that this site sent the form.

    The scheme is not compared: a proxy may have ended TLS. `Origin: null` comes from pages without an origin.
    """
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
