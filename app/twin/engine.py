"""The provider itself: accepts tasks, ends them in time, sends callbacks and delivers images.

Everything is in memory. Time comes only from the given clock: `tick` does what is due, `run` does so continuously.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import httpx

from app.twin import ledger
from app.twin.accounts import Accounts
from app.twin.admission import Acceptance, Caller, cost_of, new_task
from app.twin.callbacks import Callback, plan
from app.twin.faults import Faults
from app.twin.gallery import Gallery
from app.twin.inputs import Source, Sources
from app.twin.links import Links
from app.twin.models import SubmitRequest
from app.twin.outbox import Outbox
from app.twin.rules import Rules
from app.twin.submit_request import Refusal
from app.twin.task import Outcome, Task, ending_of

REFUSALS_KEPT = 10_000  # limits memory when a client floods a full account


class Twin:
    def __init__(
        self,
        rules: Rules | None = None,
        *,
        now: Callable[[], datetime],
        send: httpx.AsyncClient,
        faults: Faults | None = None,
        seed: int = 0,
    ) -> None:
        """`seed` determines task IDs, and the seeds of tasks that name none. Faults have their own seed."""
        self._started_with = (rules or Rules(), faults or Faults())
        self._seed = seed
        self._epoch = 0
        self.now = now
        self.links = Links(hashlib.sha256(f"links {seed}".encode()).digest())
        self.sources = Sources(send)
        self.outbox = Outbox(send, now)
        self.reset()

    def reset(self) -> None:
        """Return to the initial state. Task IDs are never reused, so new tasks differ from deleted ones."""
        self._epoch += 1
        self.rules, self.faults = self._started_with
        self.tasks: dict[str, Task] = {}
        self.accounts = Accounts()
        self.gallery = Gallery()
        self.refused: deque[dict[str, Any]] = deque(maxlen=REFUSALS_KEPT)
        self._requests = {"submit": 0, "status": 0}
        self.outbox.clear()

    def count(self, kind: str) -> int:
        """Count a "submit" or "status" request and return its number, from 0, which determines its faults."""
        number = self._requests[kind]
        self._requests[kind] += 1
        return number

    async def accept(self, request: SubmitRequest, model: str, caller: Caller) -> Task | Refusal:
        """Accept or refuse a task. If the task has an early callback, return after that callback."""
        sources = await self.sources.read(request)
        if isinstance(sources, Refusal):
            return sources
        task = self._admit(request, model, caller, sources)
        if isinstance(task, Refusal):
            return task
        callbacks = plan(task, self.link(task.origin, task), self.rules, self.faults)
        early = [c for c in callbacks if "early_callback" in task.faults and c.due_at <= task.accepted_at]
        self.outbox.add(callback for callback in callbacks if callback not in early)
        await self._deliver(early)
        return task

    def _admit(self, request: SubmitRequest, model: str, caller: Caller, sources: Sequence[Source]) -> Task | Refusal:
        """Admit the task. This must not await, so that slots and credits are counted exactly."""
        if caller.moderated_at_submit and ending_of(request.text).outcome is Outcome.REQUEST_MODERATED:
            return Refusal(503, "content_policy_violation", "The input may violate the content rules")
        now = self.now()
        cost = cost_of(request, model, self.rules)
        refusal = self.accounts.refusal(caller.account, model, cost, self.rules, now)
        if refusal is not None:
            return refusal
        acceptance = Acceptance(now, ordinal=len(self.tasks), seed=self._seed, epoch=self._epoch)
        task = new_task(request, model, caller, sources, acceptance=acceptance, rules=self.rules, faults=self.faults)
        self.tasks[task.id] = task
        self.accounts.take(task, now)
        self.gallery.add(task, now)
        return task

    def link(self, origin: str, task: Task) -> str:
        """Return the link to the image of a finished task, on `origin` unless the rules name another one."""
        return self.links.url(self.rules.delivery_origin or origin, task)

    def refuse(self, status: int | None, reason: str) -> None:
        """Record a refused submit request in the ledger; status None means that it got no answer."""
        self.refused.append({"at": self.now().isoformat(), "status": status, "why": reason})

    def find(self, task_id: str) -> Task | None:
        """Return the task, or None if it is unknown or ended too long ago."""
        task = self.tasks.get(task_id)
        if task is None or task.ready_at is None:
            return task
        return task if self.now() < task.ready_at + self.rules.fetchable_for else None

    async def tick(self) -> datetime | None:
        """Do everything that is due, including deliveries. Return when the next event is due, or None."""
        for _, same_instant in groupby(self.outbox.take_due(), key=lambda callback: callback.due_at):
            await self._deliver(list(same_instant))
        instants = (self.outbox.next_due_at(), self.accounts.next_ready_at(self.now()))
        return min((instant for instant in instants if instant is not None), default=None)

    async def run(self) -> None:
        """Send callbacks when they are due, until cancelled. A slow receiver does not delay other deliveries."""
        async with asyncio.TaskGroup() as deliveries:
            while True:
                self.outbox.changed.clear()
                for callback in self.outbox.take_due():
                    deliveries.create_task(self.outbox.deliver(callback, self.rules))
                await self._until(self.outbox.next_due_at())

    async def _until(self, due_at: datetime | None) -> None:
        wait = None if due_at is None else max(0.0, (due_at - self.now()).total_seconds())
        try:
            async with asyncio.timeout(wait):
                await self.outbox.changed.wait()
        except TimeoutError:
            return

    async def _deliver(self, callbacks: Sequence[Callback]) -> None:
        await asyncio.gather(*(self.outbox.deliver(callback, self.rules) for callback in callbacks))

    def ledger(self) -> dict[str, Any]:
        return ledger.snapshot(self.tasks.values(), self.accounts, self.refused, self.now())
