"""One try to deliver: what is sent, signed in both ways, and what came of it. Nothing is recorded here."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus

import httpx

from app.db.tables.deliveries import Delivery
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.images.signed_links import result_link
from app.resources import Resources
from app.rules.backoff import read_retry_after
from app.security import sign
from app.webhooks import payload, subscription

_KEPT = 4096  # of an answer's body: enough to see what is wrong


@dataclass(frozen=True, slots=True)
class OutgoingWebhook:
    """A delivery, and what its body is made of."""

    delivery: Delivery
    task: Task | None
    result: Result | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a try: an HTTP status, or an error. A try that reached nobody says no more than that."""

    http_status: int | None = None
    error: str | None = None
    latency_ms: int | None = None
    answer: bytes = b""
    retry_after: timedelta | None = None

    @property
    def delivered(self) -> bool:
        return self.http_status is not None and HTTPStatus(200) <= self.http_status < HTTPStatus(300)

    @property
    def gone(self) -> bool:
        return self.http_status == HTTPStatus.GONE


UNREACHABLE, TIMEOUT, BROKEN, SEALED = "unreachable", "timeout", "broken", "sealed"


async def deliver(use: Resources, letter: OutgoingWebhook) -> Outcome:
    """Send a delivery once. Whatever the receiver does is an outcome, not an error."""
    opened, secret = _secret(use, letter)
    if not opened:
        return Outcome(error=SEALED)
    body = _body(use, letter)
    hidden = (secret or "").encode()
    headers = _headers(use, letter.delivery, secret, body)
    outcome = await _post(use, letter.delivery.url, body, headers, _KEPT + len(hidden))
    return replace(outcome, answer=_shown(outcome.answer, hidden))


def _shown(answer: bytes, hidden: bytes) -> bytes:
    """What is kept of an answer. What a receiver echoes of its secret is not: the database must sign nothing."""
    if not hidden:
        return answer[:_KEPT]
    split = answer.find(hidden, max(0, _KEPT + 1 - len(hidden)))  # by where an answer is cut, or after it
    end = split + len(hidden) if 0 <= split < _KEPT else _KEPT
    return answer[:end].replace(hidden, b"[secret]")[:_KEPT]


async def _post(use: Resources, url: str, body: bytes, headers: dict[str, str], most: int) -> Outcome:
    """`most` bytes of the answer, or somewhat more, are read."""
    began = time.monotonic()
    head: httpx.Response | None = None
    answer, error = bytearray(), None
    try:
        async with (
            asyncio.timeout(use.webhook_deadline.total_seconds()),
            use.webhooks.stream("POST", url, content=body, headers=headers) as head,
        ):
            async for piece in head.aiter_raw():
                answer += piece
                if len(answer) >= most:
                    break
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return Outcome(error=UNREACHABLE)  # and not how long it took: a blocked host must look like a dead one
    except (TimeoutError, httpx.TimeoutException):
        error = TIMEOUT
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):  # Unicode: a broken `xn--` name
        error = BROKEN
    latency_ms = round((time.monotonic() - began) * 1000)
    if head is None:
        return Outcome(error=error, latency_ms=latency_ms)
    # Once its status is there the receiver has spoken, however the rest of its answer ends.
    wish = read_retry_after(head.headers.get("retry-after", ""), use.now())
    return Outcome(head.status_code, None, latency_ms, bytes(answer), wish)


def _body(use: Resources, letter: OutgoingWebhook) -> bytes:
    said = payload.with_link(letter.delivery.payload, _link(use, letter))
    return json.dumps(said, separators=(",", ":")).encode()


def _link(use: Resources, letter: OutgoingWebhook) -> str | None:
    """A fresh link to the image: on our public address, else where the submitter reached us, else only its path."""
    if letter.task is None or letter.result is None:
        return None
    base = use.public_url or letter.task.webhook_origin
    if base is None:
        return f"/v1/tasks/{letter.task.id}/image"
    return result_link(use.keys, letter.task.id, letter.result.media_type, use.now() + use.link_life, base)


def _secret(use: Resources, letter: OutgoingWebhook) -> tuple[bool, str | None]:
    """Whether the secret can be read, and the secret that was given with the task or the test, if any was."""
    sealed, owner_id = letter.delivery.secret, letter.delivery.id
    if letter.task is not None:
        sealed, owner_id = letter.task.webhook_secret, letter.task.id
    if sealed is None:
        return True, None
    secret = subscription.unseal(use.keys, owner_id, sealed)
    return secret is not None, secret


def _headers(use: Resources, delivery: Delivery, secret: str | None, body: bytes) -> dict[str, str]:
    headers = {"content-type": "application/json"}
    if secret is not None:
        headers["x-bfl-signature"] = sign.bfl_signature(secret, body)
    return headers | sign.standard_headers(_keys(use, delivery, secret), delivery.id, use.now(), body)


def _keys(use: Resources, delivery: Delivery, secret: str | None) -> Sequence[bytes]:
    return use.keys.webhook_keys(delivery.key_id) if secret is None else (sign.key_of(secret),)
