"""What an HTTP error says about a submission: refused, not accepted yet, or doubtful. The same for both providers.

A *sure* answer comes from a server that did not process the request. Every other one is LOST: the task may have been
accepted, so it is not sent again. A gateway's page says nothing about the task, only about the way to the provider.
"""

from collections.abc import Collection
from http import HTTPStatus

from app import clock
from app.provider import http as exchange
from app.provider import messages
from app.provider.contract import ProviderResponse
from app.rules.task import Failure, Report, Said

# Statuses of a server that refused to process the request, or of a CDN that did not reach the provider: it was down
# (521), unreachable (523), without a valid certificate (525, 526), or unknown to the CDN's own DNS (530). Not in this
# list are timeouts of a CDN, which may follow an acceptance: 520, 522 and 524.
_NOT_PROCESSED = frozenset({421, 425, 501, 505, 511, 521, 523, 525, 526, 530})
# Timeouts and closed connections, as seen from the other end. Some servers also report a slow generation with 408.
_DOUBTFUL = frozenset({408, 460, 499})
# These are about the content of one request, even if a gateway sends them.
_ABOUT_THE_TASK = frozenset({HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
_ABOUT_THE_KEY = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


def read_refusal(response: ProviderResponse, *, outages: Collection[int]) -> Report:
    """Interpret a response to a submission that is not a 2xx. `outages`: statuses with the published advice to retry.

    - BUSY: 429. UNPAID: 402, or a refused key whose text is about the balance. KEY_REFUSED: 401 or 403.
    - DOWN: a redirect, a status that shows that the request was not processed, or an outage.
    - BLOCKED: any other 4xx without a word of the API, as from a gateway. REFUSED: any other 4xx with one.
    - LOST: everything else.
    """
    status = response.http_status or 0
    said, failure = _meaning(status, response.body, outages)
    detail = _detail(status, said, messages.read_error(response.body))
    if said in {Said.BUSY, Said.DOWN, Said.BLOCKED}:
        wait = exchange.retry_after(response.headers, clock.utc_now()) or messages.read_wait(response.body)
        return Report(said, failure=failure, detail=detail, retry_after=wait)
    return Report(said, failure=failure, detail=detail)


def _meaning(status: int, body: bytes, outages: Collection[int]) -> tuple[Said, Failure | None]:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Said.BUSY, None
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return Said.UNPAID, None
    if status in range(300, 400) or status in _NOT_PROCESSED or status in outages:
        return Said.DOWN, None
    if status not in range(400, 500) or status in _DOUBTFUL:
        return Said.LOST, None
    if status in _ABOUT_THE_TASK:
        return Said.REFUSED, Failure.PROVIDER_REJECTED
    if is_from_gateway(status, body):
        return Said.BLOCKED, Failure.PROVIDER_ERROR
    if status not in _ABOUT_THE_KEY:
        return Said.REFUSED, Failure.PROVIDER_REJECTED
    return (Said.UNPAID, None) if is_unpaid(status, body) else (Said.KEY_REFUSED, Failure.PROVIDER_REJECTED)


def is_from_gateway(status: int, body: bytes) -> bool:
    """Whether an error comes from a gateway, not from the API behind it: the API's errors are JSON with a text."""
    message = messages.parse(body) or {}
    return (
        status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        or messages.is_cloudflares(message)
        or not messages.read_error(body)
    )


def is_unpaid(status: int, body: bytes) -> bool:
    """Whether a refused key has only run out of money. Nothing but the text tells it from a key that is not valid."""
    text = messages.read_error(body).lower()
    return status in _ABOUT_THE_KEY and ("balance" in text or "credit" in text)


def describe_problem(response: ProviderResponse) -> str | None:
    """Describe the problem that the response to a free request shows, with the provider as "it"; None without one."""
    status = response.http_status
    if status is None:
        return response.report.detail
    if status in range(300, 400):
        return f"it redirects (HTTP {status}), which is not followed: this is not the base URL of its API"
    if status in _ABOUT_THE_KEY:
        if is_from_gateway(status, response.body):
            return f"a gateway in front of it refuses requests (HTTP {status})"
        unpaid = is_unpaid(status, response.body)
        return "its account has no balance left" if unpaid else "it refuses the API key"
    return f"it answers with HTTP {status}" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None


def _detail(status: int, said: Said, text: str) -> str:
    if said is Said.BLOCKED:
        return f"HTTP {status} from a gateway: {text}" if text else f"HTTP {status} from a gateway"
    if status in range(300, 400):
        return f"HTTP {status}: a redirect, which a submission does not follow"
    return text or f"HTTP {status}"
