"""Links to images that need no key: signed with the key ring, and dead after an instant that they name themselves."""

from datetime import UTC, datetime
from urllib.parse import urlencode

from app.images.inspect import EXTENSIONS
from app.security.keyring import KeyRing

_PURPOSE = "result-link"
_MAX_EXPIRES = 12  # digits of epoch seconds, far past every year that a calendar here knows


def result_link(keys: KeyRing, task_id: str, media_type: str, expires_at: datetime, base_url: str) -> str:
    """`{base_url}/results/{task_id}.{extension}?expires=...&signature=...`; `base_url` ends without a slash."""
    expires = str(int(expires_at.timestamp()))
    query = urlencode({"expires": expires, "signature": keys.mac(_message(task_id, expires), _PURPOSE)})
    return f"{base_url}/results/{task_id}.{EXTENSIONS[media_type]}?{query}"


def check(keys: KeyRing, task_id: str, expires: str, signature: str, now: datetime) -> bool:
    """Whether these are the parts of a link that we made for this task and that lives now."""
    if len(expires) > _MAX_EXPIRES or not expires.isascii() or not expires.isdecimal():
        return False
    return keys.proves(_message(task_id, expires), _PURPOSE, signature) and now.timestamp() < int(expires)


def expiry(expires: str) -> datetime:
    """When a link that was checked dies."""
    return datetime.fromtimestamp(int(expires), UTC)


def _message(task_id: str, expires: str) -> bytes:
    return f"{task_id}.{expires}".encode(errors="surrogatepass")
