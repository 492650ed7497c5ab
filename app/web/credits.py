"""The balances of the provider accounts, cached so that many callers cause one request to each provider."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app import clock
from app.errors import FluxhookError, NotFound, ProviderUnavailable
from app.provider import Account, ProviderResponse, messages, refusals
from app.resources import Resources

_CACHED_FOR, _SCRAPED_FOR = timedelta(seconds=10), timedelta(minutes=1)
_SCRAPE_S = 2  # a scrape waits no longer for the providers
_UNSUPPORTED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


@dataclass
class Balance:
    """The cached answer about one account. Errors are cached too, so that a failing provider is not flooded."""

    answer: ProviderResponse | None = None
    answered_at: datetime | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def credits(self, account: Account, now: clock.Now, cached_for: timedelta = _CACHED_FOR) -> float:
        """Return the balance in credits, at most this old.

        Raises ProviderUnavailable, or NotFound if the provider does not report a balance.
        """
        if account.provider is None:
            raise ProviderUnavailable("no provider key is configured: the operator must set one")
        async with self.lock:
            if self.answer is None or self.answered_at is None or now() - self.answered_at >= cached_for:
                self.answer = await account.provider.credits()
                self.answered_at = now()
            return _read(self.answer)


class Balances:
    """The balances of all accounts."""

    def __init__(self) -> None:
        self._of: dict[str, Balance] = defaultdict(Balance)

    async def each(self, use: Resources, cached_for: timedelta = _CACHED_FOR) -> dict[str, float | FluxhookError]:
        """Return the balance of each account by its id, at most this old, or the error if it is not known."""
        found = await asyncio.gather(*(self._read(account, use.now, cached_for) for account in use.accounts))
        return {account.id: balance for account, balance in zip(use.accounts, found, strict=True)}

    async def credits(self, use: Resources) -> float:
        """Return the sum of the balances that are known. Raises the first error if none is."""
        balances = list((await self.each(use)).values())
        known = [balance for balance in balances if isinstance(balance, float)]
        if known:
            return sum(known)
        raise next(balance for balance in balances if isinstance(balance, FluxhookError))

    async def gauge(self, use: Resources) -> Metric:
        """Return the known balances as a metric, at most a minute old. A provider that is slow is left out."""
        balances: dict[str, float | FluxhookError] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(_SCRAPE_S):
                balances = await self.each(use, _SCRAPED_FOR)
        family = GaugeMetricFamily("fluxhook_account_credits", "Balance of an account in credits.", labels=("account",))
        for account_id, balance in balances.items():
            if isinstance(balance, float):
                family.add_metric((account_id,), balance)
        return family

    async def _read(self, account: Account, now: clock.Now, cached_for: timedelta) -> float | FluxhookError:
        try:
            return float(await self._of[account.id].credits(account, now, cached_for))
        except (ProviderUnavailable, NotFound) as error:
            return error


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
