"""Authentication: an API key in `Authorization: Bearer` or `x-key`, or the page's session cookie for reading.

Keys are looked up and compared by their SHA-256; the key itself is never stored or logged.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from app.db.engine.fair_queue import OTHERS, owner
from app.db.tables import api_keys
from app.db.tables.api_keys import Key
from app.errors import Forbidden, Unauthorized
from app.resources import Resources
from app.rules.scopes import Scope, granted
from app.transitions.audit import Actor
from app.web import sessions
from app.web.feed import Feed
from app.web.sessions import COOKIE

_READING = frozenset({"GET", "HEAD"})
_MAX_ADDRESS = 64  # characters; the length of the column


@dataclass(frozen=True, slots=True)
class Caller:
    """The API key that a request is authenticated with."""

    key_id: str
    application_id: str
    name: str
    scopes: frozenset[Scope]
    joins_retries: bool  # of its application

    @property
    def owner(self) -> str | None:
        """The application whose data this caller may access; None for all applications."""
        return None if Scope.ADMIN in self.scopes else self.application_id

    def require(self, scope: Scope) -> None:
        """Raise Forbidden unless the key has this scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this requires an API key with the scope `{scope}`")


async def resources(request: Request) -> Resources:  # async: FastAPI runs other functions in threads
    use: Resources = request.app.state.use
    return use


async def live_feed(request: Request) -> Feed:
    feed: Feed = request.app.state.feed
    return feed


ResourcesDep = Annotated[Resources, Depends(resources)]
FeedDep = Annotated[Feed, Depends(live_feed)]


async def require_caller(request: Request, use: ResourcesDep) -> Caller:
    """Return the caller of this request. Raises Unauthorized."""
    caller = await find_caller(request, use)
    if caller is None:
        raise Unauthorized("send a valid API key as `Authorization: Bearer KEY` or `x-key: KEY`")
    return caller


CallerDep = Annotated[Caller, Depends(require_caller)]


def _require(scope: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    async def require(caller: CallerDep) -> Caller:
        """Return the caller if it has the scope. Raises Unauthorized or Forbidden."""
        caller.require(scope)
        return caller

    return require


# A caller without the scope is refused before the body is read, and before it is known whether the resource exists.
SubmitterDep = Annotated[Caller, Depends(_require(Scope.SUBMIT))]
ReaderDep = Annotated[Caller, Depends(_require(Scope.READ))]
ManagerDep = Annotated[Caller, Depends(_require(Scope.MANAGE))]
AdminDep = Annotated[Caller, Depends(_require(Scope.ADMIN))]


async def actor(request: Request, caller: CallerDep) -> Actor:
    """Return the caller as the audit records it. Raises Unauthorized."""
    address = request.client.host[:_MAX_ADDRESS] if request.client is not None else None
    return Actor(caller.key_id, caller.application_id, address or None)


ActorDep = Annotated[Actor, Depends(actor)]


async def find_caller(request: Request, use: Resources, *, bare: bool = False) -> Caller | None:
    """Return the caller, or None without a valid key or session.

    `bare`: an `Authorization` header with the key alone, without "Bearer", is valid too.
    """
    presented = _presented(request, bare=bare)
    if presented is not None:
        key = await by_secret(request, use, presented)
    elif COOKIE in request.cookies and request.method in _READING:
        session = await sessions.read_cookie(use, request.cookies[COOKIE])
        key = None if session is None else session.key
    else:
        return None
    if key is None:
        return None
    return caller_of(request, key)


def caller_of(request: Request, key: Key) -> Caller:
    """Return the caller with this key, which the request's log line then names and whose turns its writes take."""
    request.state.key_id = key.id
    owner.set(key.application_id)
    state = request.app.state
    state.key_use.note(key, state.use.now())
    joins_retries = key.application_join_retries is not False
    return Caller(key.id, key.application_id, key.name, granted(key.scopes), joins_retries)


async def by_secret(request: Request, use: Resources, secret: str) -> Key | None:
    """Return the key with this secret, or None if there is none or it is not valid now.

    After many different wrong keys from one address, None comes late. Raises TooManyWrongKeys.
    """
    digest = digest_of(secret)
    owner.set(request.app.state.key_use.application_of(digest) or OTHERS)
    key = await use.db.read(api_keys.by_digest, digest)
    if key is None or not hmac.compare_digest(key.sha256, digest):
        await request.app.state.wrong_keys.refuse("" if request.client is None else request.client.host, digest)
        return None
    return key if key.is_valid(use.now()) else None


def digest_of(secret: str) -> str:
    """Return the hex SHA-256 by which a key is stored. Generated keys have 256 random bits and need no slow hash."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _presented(request: Request, *, bare: bool) -> str | None:
    authorization = request.headers.get("authorization", "")
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    # Many of GPTProto's own examples omit "Bearer".
    alone = authorization if bare and " " not in authorization else ""
    return request.headers.get("x-key") or alone or None
