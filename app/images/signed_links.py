"""Links to images that need no API key: signed with the keyring, valid until the time that they state."""

from datetime import UTC, datetime
from urllib.parse import urlencode

from app.images.examine import extension_of
from app.security.keyring import KeyRing

_PURPOSE = "result-link"
_MAX_EXPIRES = 12  # digits of Unix time; enough for every year that `datetime` supports


def result_link(keys: KeyRing, task_id: str, media_type: str, expires_at: datetime, base_url: str) -> str:
    """Return `{base_url}/results/{task_id}.{extension}?expires=...&signature=...`, with `expires` in Unix time.

    `base_url` must not end with a slash.
    """
    expires = str(int(expires_at.timestamp()))
    query = urlencode({"expires": expires, "signature": keys.mac(_message(task_id, expires), _PURPOSE)})
    return f"{base_url}/results/{task_id}.{extension_of(media_type)}?{query}"


def check(keys: KeyRing, task_id: str, expires: str, signature: str, now: datetime) -> bool:
    """Whether `expires` and `signature` belong to a valid link for this task that has not expired."""
    if len(expires) > _MAX_EXPIRES or not expires.isascii() or not expires.isdecimal():
        return False
    return keys.proves(_message(task_id, expires), _PURPOSE, signature) and now.timestamp() < int(expires)


def expiry(expires: str) -> datetime:
    """Return the expiry of a link that `check` has accepted."""
    return datetime.fromtimestamp(int(expires), UTC)


def _message(task_id: str, expires: str) -> bytes:
    return f"{task_id}.{expires}".encode(errors="surrogatepass")
