"""The balance of the provider's account, cached so that many callers cause one request to the provider."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus

from app.errors import NotFound, ProviderUnavailable
from app.provider import ProviderResponse, messages, refusals
from app.resources import Resources

_CACHED_FOR = timedelta(seconds=10)
_UNSUPPORTED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


@dataclass
class Balance:
    """The cached answer of the provider. Errors are cached too, so that a failing provider is not flooded."""

    answer: ProviderResponse | None = None
    answered_at: datetime | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def credits(self, use: Resources) -> float:
        """Return the balance in credits, at most ten seconds old.

        Raises ProviderUnavailable, or NotFound if the provider does not report a balance.
        """
        if use.provider is None:
            raise ProviderUnavailable("no provider key is configured: the operator must set one")
        async with self.lock:
            if self.answer is None or self.answered_at is None or use.now() - self.answered_at >= _CACHED_FOR:
                self.answer = await use.provider.credits()
                self.answered_at = use.now()
            return _read(self.answer)


def _read(answer: ProviderResponse) -> float:
    """Return the balance in an answer. A rejected provider key is an outage to callers: their own key is valid."""
    if answer.http_status is None:
        raise ProviderUnavailable("the provider did not answer")
    credits_left = messages.read_credits(answer.body)
    if answer.http_status == HTTPStatus.OK and credits_left is not None:
        return credits_left
    if answer.http_status in _UNSUPPORTED:
        raise NotFound("the provider does not report a balance")
    if answer.http_status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        if refusals.is_from_gateway(answer.http_status, answer.body):
            raise ProviderUnavailable("a gateway in front of the provider refuses requests")
        raise ProviderUnavailable("the provider rejects the configured key: the operator must replace it")
    raise ProviderUnavailable(f"the provider did not return a balance: HTTP {answer.http_status}")
