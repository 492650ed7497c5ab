"""Sessions of signed-in browsers: each is a sealed cookie. Only one that was ended early has a row in the database."""

import base64
import hmac
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from app import ids
from app.db import Connection
from app.db.tables import api_keys, ended_sessions
from app.db.tables.api_keys import Key
from app.resources import Policy, Resources

COOKIE = "fluxhook_session"
_LIFE = timedelta(hours=12)
_PURPOSE = "session"
_FORMS = "form"  # the purpose of the token in forms


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is valid now, with its API key."""

    id: str
    key: Key
    ends_at: datetime


def new_cookie(use: Policy, key: Key) -> str:
    """Return a cookie value that authenticates as this key until it expires, or the key is replaced or disabled."""
    session_id = base64.urlsafe_b64encode(ids.nonce()).decode()
    until = (use.now() + _LIFE).isoformat()
    plain = json.dumps({"id": session_id, "key": key.id, "digest": key.sha256, "until": until})
    return use.keys.seal(plain.encode(), _PURPOSE, ids.nonce())


async def read_cookie(use: Resources, cookie: str) -> Session | None:
    """Return the session of a cookie, or None if it was altered, has expired or was ended."""
    plain = use.keys.unseal(cookie, _PURPOSE)
    if plain is None:
        return None
    members = json.loads(plain)
    session_id, ends_at = members.get("id"), datetime.fromisoformat(members["until"])
    if session_id is None or ends_at < use.now():  # without an id: a cookie of version 0.2
        return None

    def read(connection: Connection) -> Key | None:
        return None if ended_sessions.is_ended(connection, session_id) else api_keys.get(connection, members["key"])

    key = await use.db.read(read)
    if key is None or not hmac.compare_digest(key.sha256, members["digest"]) or not key.is_valid(use.now()):
        return None
    return Session(session_id, key, ends_at)


async def end(use: Resources, session: Session) -> None:
    """End a session before its time: its cookie is not accepted any more, by any process."""
    await use.db.write(ended_sessions.end, session.id, session.ends_at, use.now())


def form_token(use: Policy, session: Session) -> str:
    """Return the token that a form of this session carries. No other site can read or derive it."""
    return use.keys.mac(session.id.encode(), _FORMS)


def proves_form(use: Policy, session: Session, token: str) -> bool:
    """Whether a form carries the token of this session."""
    return use.keys.proves(session.id.encode(), _FORMS, token)
