"""One attempt to send a delivery: build the body, prove its origin in each form, send it. Nothing is stored here."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus

import httpx

from app.db.tables import applications
from app.db.tables.deliveries import Delivery
from app.db.tables.events import BUDGET_WARNING
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.images.signed_links import public_link
from app.resources import Policy, Resources
from app.rules.backoff import read_retry_after
from app.security import sign
from app.security.redact import redact
from app.webhooks import payload, subscription

_MAX_ANSWER = 4096  # bytes of a response body to store; enough to diagnose a failure


@dataclass(frozen=True, slots=True)
class OutgoingWebhook:
    """A delivery, and the task and result that its body describes. A test or a warning has neither."""

    delivery: Delivery
    task: Task | None
    result: Result | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one attempt: an HTTP status or an error, with the start of the response body in `answer`.

    An attempt that reached no host has an error and nothing else.
    """

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


async def deliver(use: Resources, webhook: OutgoingWebhook) -> Outcome:
    """Send a delivery once and return the outcome. Failures of the receiver or the network raise no exception.

    `SEALED`: the secret cannot be decrypted, and nothing was sent.
    """
    readable, secret = _secret(use, webhook)
    if not readable:
        return Outcome(error=SEALED)
    body = await _body(use, webhook)
    raw_secret = (secret or "").encode()
    headers = _headers(use, webhook.delivery, secret, body)
    outcome = await _post(use, webhook.delivery.url, body, headers, _MAX_ANSWER + len(raw_secret))
    return replace(outcome, answer=_redact(outcome.answer, raw_secret))


def _redact(answer: bytes, secret: bytes) -> bytes:
    """Cut a response body to its stored size, without the secret that a receiver may echo: stored data must not allow
    anyone to sign.
    """
    if not secret:
        return answer[:_MAX_ANSWER]
    at_cut = answer.find(secret, max(0, _MAX_ANSWER + 1 - len(secret)))  # an echo across the cut, or after it
    end = at_cut + len(secret) if 0 <= at_cut < _MAX_ANSWER else _MAX_ANSWER
    in_json = json.dumps(secret.decode())[1:-1].encode()
    return redact(answer[:end], {secret: b"[secret]", in_json: b"[secret]"})[:_MAX_ANSWER]


async def _post(use: Resources, url: str, body: bytes, headers: httpx.Headers, max_bytes: int) -> Outcome:
    """Send one request. Reading stops once `max_bytes` of the response body have arrived."""
    started = time.monotonic()
    response: httpx.Response | None = None
    answer, error = bytearray(), None
    try:
        async with (
            asyncio.timeout(use.webhook_deadline.total_seconds()),
            use.webhooks.stream("POST", url, content=body, headers=headers) as response,
        ):
            async for chunk in response.aiter_raw():
                answer += chunk
                if len(answer) >= max_bytes:
                    break
    except (httpx.ConnectError, httpx.ConnectTimeout):
        return Outcome(error=UNREACHABLE)  # no latency: a blocked host must look like an unreachable one
    except (TimeoutError, httpx.TimeoutException):
        error = TIMEOUT
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):  # UnicodeError: an invalid `xn--` name
        error = BROKEN
    latency_ms = round((time.monotonic() - started) * 1000)
    if response is None:
        return Outcome(error=error, latency_ms=latency_ms)
    # The status decides, even if the rest of the response is incomplete.
    retry_after = read_retry_after(response.headers.get("retry-after", ""), use.now())
    return Outcome(response.status_code, None, latency_ms, bytes(answer), retry_after)


async def _body(use: Resources, webhook: OutgoingWebhook) -> bytes:
    prompt = None if webhook.task is None else webhook.task.request.prompt
    message = payload.with_link(payload.with_prompt(webhook.delivery.payload, prompt), await _link(use, webhook))
    return json.dumps(message, separators=(",", ":")).encode()


async def _link(use: Resources, webhook: OutgoingWebhook) -> str | None:
    """Return a new link to the image: in the bucket, on the public URL, on the origin of the request, or a path."""
    if webhook.task is None or webhook.result is None:
        return None
    base = use.public_url or webhook.task.webhook_origin
    return await public_link(use, webhook.result, base) or f"/v1/tasks/{webhook.task.id}/image"


def _secret(use: Policy, webhook: OutgoingWebhook) -> tuple[bool, str | None]:
    """Return whether the secret can be decrypted, and that of the task, application or test; None without one."""
    sealed, owner_id = webhook.delivery.secret, webhook.delivery.id
    if webhook.task is not None:
        sealed, owner_id = webhook.task.webhook_secret, webhook.task.id
    elif webhook.delivery.event == BUDGET_WARNING:
        owner_id = webhook.delivery.application_id
    if sealed is None:
        return True, None
    secret = subscription.unseal(use.keys, owner_id, sealed)
    return secret is not None, secret


def _headers(use: Policy, delivery: Delivery, secret: str | None, body: bytes) -> httpx.Headers:
    headers = {"content-type": "application/json"}
    if secret is not None:
        headers["x-bfl-signature"] = sign.bfl_signature(secret, body)
        if use.send_webhook_secret and _may_carry(delivery, secret):
            headers["x-webhook-secret"] = secret
    headers |= sign.standard_headers(_keys(use, delivery, secret), delivery.id, use.now(), body)
    return httpx.Headers(headers, encoding="utf-8")


def _may_carry(delivery: Delivery, secret: str) -> bool:
    """Whether the secret itself goes along, as in the provider's webhooks: encrypted, and unchanged by HTTP.

    HTTP strips the whitespace around a header's value.
    """
    can_be_a_header = len(secret) == len(secret.strip())
    return delivery.form == "provider" and delivery.url[:6].lower() == "https:" and can_be_a_header


def _keys(use: Policy, delivery: Delivery, secret: str | None) -> Sequence[bytes]:
    if secret is not None:
        return (sign.decode_secret(secret),)
    return use.keys.webhook_keys(applications.first_key_id(delivery.application_id))
