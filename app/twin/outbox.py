"""Sends callbacks when they are due and retries failures, by default after 1, 5 and 30 s."""

import asyncio
import heapq
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from itertools import count

import httpx

from app.twin.callbacks import Callback
from app.twin.rules import Rules
from app.twin.task import CallbackAttempt

HEADERS = {b"Content-Type": b"application/json", b"User-Agent": b"fluxhook-twin"}


class Outbox:
    def __init__(self, send: httpx.AsyncClient, now: Callable[[], datetime]) -> None:
        self._send = send
        self._now = now
        self._waiting: list[tuple[datetime, int, Callback]] = []
        self._number = count()  # keeps callbacks with the same time in the order of their planning
        self._cleared = 0
        self.changed = asyncio.Event()

    def add(self, callbacks: Iterable[Callback]) -> None:
        for callback in callbacks:
            heapq.heappush(self._waiting, (callback.due_at, next(self._number), callback))
        self.changed.set()

    def clear(self) -> None:
        self._waiting.clear()
        self._cleared += 1

    def next_due_at(self) -> datetime | None:
        return self._waiting[0][0] if self._waiting else None

    def take_due(self) -> list[Callback]:
        """Remove and return all callbacks that are due, in order. The caller delivers them."""
        now, due = self._now(), []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        return due

    async def deliver(self, callback: Callback, rules: Rules) -> None:
        """Send the callback once, record the attempt in the task, and schedule a retry if it fails."""
        at, cleared = self._now(), self._cleared
        answered, error = await self._post(callback, rules)
        callback.task.callbacks.append(CallbackAttempt(at, callback.kind, callback.attempt, answered, error))
        accepted = answered is not None and 200 <= answered < 300  # noqa: PLR2004 - 2xx, as in the contract
        # A callback that was being sent during a reset belongs to a deleted task.
        if accepted or not callback.retries or cleared != self._cleared:
            return
        wait, *rest = callback.retries
        retry = replace(callback, due_at=self._now() + wait, retries=tuple(rest), attempt=callback.attempt + 1)
        self.add([retry])

    async def _post(self, callback: Callback, rules: Rules) -> tuple[int | None, str | None]:
        """Return the HTTP status, or the name of the error."""
        url = callback.task.webhook_url or ""
        headers = [*HEADERS.items(), *callback.headers.items()]
        try:
            async with asyncio.timeout(rules.delivery_timeout.total_seconds()):
                answer = await self._send.post(url, content=callback.body, headers=headers, timeout=None)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as problem:
            return None, type(problem).__name__
        return answer.status_code, None
