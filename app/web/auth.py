"""Authentication: an API key in `Authorization: Bearer` or `x-key`, or the page's session cookie for reading.

Keys are looked up and compared by their SHA-256; the key itself is never stored or logged.
"""

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, Request

from app import ids
from app.db.tables import api_keys
from app.db.tables.api_keys import Key
from app.errors import Forbidden, Unauthorized
from app.resources import Resources
from app.web.feed import Feed

COOKIE = "fluxhook_session"
EVERYTHING = "*"  # the scope
_SESSION = timedelta(hours=12)
_READING = frozenset({"GET", "HEAD"})
_PURPOSE = "session"


@dataclass(frozen=True, slots=True)
class Caller:
    """The API key that a request is authenticated with."""

    key_id: str
    name: str
    scopes: frozenset[str]

    @property
    def may_do_everything(self) -> bool:
        return EVERYTHING in self.scopes

    @property
    def owner(self) -> str | None:
        """The key whose deliveries, endpoints and usage this caller may access; None for all keys."""
        return None if self.may_do_everything else self.key_id


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


async def require_admin(caller: CallerDep) -> Caller:
    """Return the caller if it has the scope `*`. Raises Unauthorized or Forbidden."""
    if not caller.may_do_everything:
        raise Forbidden("this requires an API key with the scope `*`")
    return caller


AdminDep = Annotated[Caller, Depends(require_admin)]


async def find_caller(request: Request, use: Resources, *, bare: bool = False) -> Caller | None:
    """Return the caller, or None without a valid key or session.

    `bare`: an `Authorization` header with the key alone, without "Bearer", is valid too.
    """
    presented = _presented(request, bare=bare)
    if presented is not None:
        key = await by_secret(use, presented)
    elif COOKIE in request.cookies and request.method in _READING:
        key = await _by_session(use, request.cookies[COOKIE])
    else:
        return None
    if key is None:
        return None
    request.state.key_id = key.id  # for the request's log line
    return Caller(key.id, key.name, frozenset(key.scopes))


async def by_secret(use: Resources, secret: str) -> Key | None:
    """Return the enabled key with this secret, or None."""
    digest = digest_of(secret)
    key = await use.db.read(api_keys.by_digest, digest)
    if key is None or not hmac.compare_digest(key.sha256, digest) or key.disabled_at is not None:
        return None
    return key


def digest_of(secret: str) -> str:
    """Return the hex SHA-256 by which a key is stored. Generated keys have 256 random bits and need no slow hash.

    The strength of an admin key is the operator's choice; `doctor` warns of a short one.
    """
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def new_session(use: Resources, key: Key) -> str:
    """Return a cookie value that authenticates as this key until it expires or the key is replaced or disabled."""
    until = (use.now() + _SESSION).isoformat()
    plain = json.dumps({"key": key.id, "digest": key.sha256, "until": until})
    return use.keys.seal(plain.encode(), _PURPOSE, ids.nonce())


async def _by_session(use: Resources, cookie: str) -> Key | None:
    plain = use.keys.unseal(cookie, _PURPOSE)
    if plain is None:
        return None
    session = json.loads(plain)
    if datetime.fromisoformat(session["until"]) < use.now():
        return None
    key = await use.db.read(api_keys.get, session["key"])
    if key is None or not hmac.compare_digest(key.sha256, session["digest"]) or key.disabled_at is not None:
        return None
    return key


def _presented(request: Request, *, bare: bool) -> str | None:
    authorization = request.headers.get("authorization", "")
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    # Many of GPTProto's own examples omit "Bearer".
    alone = authorization if bare and " " not in authorization else ""
    return request.headers.get("x-key") or alone or None
