"""How much of a resource of this process each owner holds at once."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from app.errors import LimitExceeded

_RETRY_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Share:
    """What an owner may hold at once; None: any number."""

    owner: str
    limit: int | None


class Shares:
    """Counts what each owner holds. Owners that hold nothing take no memory. Not thread-safe.

    `limit`: the name of the limit, for the error. `what`: what is counted, in the plural.
    """

    def __init__(self, limit: str, what: str) -> None:
        self._limit, self._what = limit, what
        self._held: Counter[str] = Counter()
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def held(self, owner: str) -> int:
        return self._held[owner]

    @asynccontextmanager
    async def taken(
        self, owner: str, limit: int | None, *, units: int = 1, wait_s: float = 0.0
    ) -> AsyncGenerator[None]:
        """Hold `units` for the duration of the block, once the owner then holds at most `limit` in all.

        Raises LimitExceeded after a wait of `wait_s`.
        """
        ends_at = asyncio.get_running_loop().time() + wait_s
        while limit is not None and self._held[owner] + units > limit:
            if not await self._released(owner, ends_at):
                self._clean(owner)
                raise LimitExceeded(
                    f"the application has {limit:,} {self._what} at once, its limit", self._limit, _RETRY_AFTER
                )
        self._held[owner] += units
        try:
            yield
        finally:
            self._held[owner] -= units
            for waiting in self._waiting.get(owner, ()):
                if not waiting.done():
                    waiting.set_result(None)
            self._clean(owner)

    async def _released(self, owner: str, ends_at: float) -> bool:
        """Wait until the owner has released something. Return False if that takes too long."""
        loop = asyncio.get_running_loop()
        if loop.time() >= ends_at:
            return False
        released: asyncio.Future[None] = loop.create_future()
        self._waiting[owner].add(released)
        try:
            async with asyncio.timeout_at(ends_at):
                await released
        except TimeoutError:
            return False
        finally:
            self._waiting[owner].discard(released)
            self._clean(owner)
        return True

    def _clean(self, owner: str) -> None:
        if not self._held[owner]:
            del self._held[owner]
        if not self._waiting.get(owner):
            self._waiting.pop(owner, None)
