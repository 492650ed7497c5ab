"""Delivery links in the form of Azure's signed URLs: each gives access to one image until the time in `se`."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode

from app.twin.task import Task

SE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}

AZURE_REFUSAL = """\
<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code><Message>Server failed to \
authenticate the request. Make sure the value of Authorization header is formed correctly including the \
signature.</Message><AuthenticationErrorDetail>{detail}</AuthenticationErrorDetail></Error>"""


class Links:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def url(self, origin: str, task: Task) -> str:
        """Return the link to the image of a finished task, on this origin."""
        ends = (task.link_ends_at or task.accepted_at).strftime(SE_FORMAT)
        media_type = MEDIA_TYPES[task.output_format]
        path = f"/delivery/{task.id}.{task.output_format}"
        query = {"se": ends, "sp": "r", "sv": "2024-11-04", "sr": "b", "rsct": media_type}
        return f"{origin}{path}?{urlencode(query | {'sig': self._sign(path, query)})}"

    def refusal(self, path: str, query: Mapping[str, str], now: datetime) -> str | None:
        """Return Azure's error XML if the link is not genuine or has expired, else None."""
        named = {name: query.get(name, "") for name in ("se", "sp", "sv", "sr", "rsct")}
        if not hmac.compare_digest(self._sign(path, named).encode(), query.get("sig", "").encode()):
            return AZURE_REFUSAL.format(detail="Signature did not match.")
        ends_at = datetime.strptime(named["se"], SE_FORMAT).replace(tzinfo=UTC)
        return refusal_xml(ends_at, now) if now >= ends_at else None

    def _sign(self, path: str, query: Mapping[str, str]) -> str:
        message = "\n".join((path, *query.values()))
        return base64.b64encode(hmac.new(self._secret, message.encode(), hashlib.sha256).digest()).decode()


def refusal_xml(ends_at: datetime, now: datetime) -> str:
    """Return Azure's error XML for a link that has expired."""
    expiry, current = (instant.strftime("%a, %d %b %Y %H:%M:%S GMT") for instant in (ends_at, now))
    detail = f"Signed expiry time [{expiry}] must be after signed start time [{current}]"
    return AZURE_REFUSAL.format(detail=detail)
