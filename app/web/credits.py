"""What is left on the provider's account: asked with our key, and remembered so that many who ask cost one request."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus

from app.errors import NotFound, Unavailable
from app.provider import ProviderResponse, messages
from app.resources import Resources

_REMEMBERED = timedelta(seconds=10)
_NOT_OFFERED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


@dataclass
class Balance:
    """The provider's last answer, good or bad: one that is down is not asked by everybody at once either."""

    answer: ProviderResponse | None = None
    answered_at: datetime | None = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def credits(self, use: Resources) -> float:
        """Credits, at most ten seconds old. Raises Unavailable, or NotFound where the provider tells no balance."""
        if use.provider is None:
            raise Unavailable("no provider key is configured: the operator has to set one")
        async with self.asking:
            if self.answer is None or self.answered_at is None or use.now() - self.answered_at >= _REMEMBERED:
                self.answer = await use.provider.credits()
                self.answered_at = use.now()
            return _read(self.answer)


def _read(answer: ProviderResponse) -> float:
    """The balance in an answer. A refusal of our key is our operator's concern: the caller's own key is good."""
    if answer.http_status is None:
        raise Unavailable("the provider does not answer")
    credits_left = messages.read_credits(answer.body)
    if answer.http_status == HTTPStatus.OK and credits_left is not None:
        return credits_left
    if answer.http_status in _NOT_OFFERED:
        raise NotFound("the provider tells no balance")
    if answer.http_status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise Unavailable("the provider refuses the key that is configured here: the operator has to mend it")
    raise Unavailable(f"the provider told no balance: HTTP {answer.http_status}")
