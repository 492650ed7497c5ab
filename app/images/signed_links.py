"""Links to images that need no API key.

They lead to this service, signed with the keyring and valid until the time that they state, or to the bucket.
"""

from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import urlencode

from app.db.tables.results import Result
from app.errors import StoreUnavailable
from app.images.examine import extension_of
from app.resources import Resources
from app.security.keyring import KeyRing

_PURPOSE = "result-link"
_MAX_EXPIRES = 12  # digits of Unix time; enough for every year that `datetime` supports


async def public_link(use: Resources, result: Result, base_url: str | None, key_id: str = "") -> str | None:
    """Return a link to an image that needs no API key, or None if there is no `base_url` to lead to.

    It leads to the bucket if the operator says so. An image that could not be verified is served by Fluxhook alone,
    which keeps browsers from running it. `base_url`, `key_id`: as of `result_link`.
    """
    if use.presigner is not None and result.unverified_image is None and result.removed_at is None:
        with suppress(StoreUnavailable):
            return await use.presigner.presign(result.store_key, use.link_life)
    if base_url is None:
        return None
    return result_link(use.keys, result.task_id, result.media_type, use.now() + use.link_life, base_url, key_id)


def result_link(
    keys: KeyRing, task_id: str, media_type: str, expires_at: datetime, base_url: str, key_id: str = ""
) -> str:
    """Return `{base_url}/results/{task_id}.{extension}?expires=...&signature=...`, with `expires` in Unix time.

    `base_url` must not end with a slash. `key_id`: the API key that the link is made for; it is then in the link.
    """
    expires = str(int(expires_at.timestamp()))
    made_for = {"key": key_id} if key_id else {}
    signature = keys.mac(_message(task_id, expires, key_id), _PURPOSE)
    query = urlencode({"expires": expires, **made_for, "signature": signature})
    return f"{base_url}/results/{task_id}.{extension_of(media_type)}?{query}"


def check(keys: KeyRing, task_id: str, expires: str, signature: str, now: datetime, key_id: str = "") -> bool:
    """Whether `expires` and `signature` belong to a valid link for this task that has not expired."""
    if len(expires) > _MAX_EXPIRES or not expires.isascii() or not expires.isdecimal():
        return False
    return keys.proves(_message(task_id, expires, key_id), _PURPOSE, signature) and now.timestamp() < int(expires)


def expiry(expires: str) -> datetime:
    """Return the expiry of a link that `check` has accepted."""
    return datetime.fromtimestamp(int(expires), UTC)


def _message(task_id: str, expires: str, key_id: str) -> bytes:
    made_for = f".{key_id}" if key_id else ""
    return f"{task_id}.{expires}{made_for}".encode(errors="surrogatepass")
