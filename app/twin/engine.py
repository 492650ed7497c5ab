"""The provider itself: accepts tasks, reveals their ends in time, sends callbacks, hands out pictures.

Memory only. All time comes from the clock it is given: `tick` does what is due, `run` ticks by itself.
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
from app.twin.admission import Birth, Caller, cost_of, new_task
from app.twin.callbacks import Callback, plan
from app.twin.faults import Faults
from app.twin.gallery import Gallery
from app.twin.inputs import Source, Sources
from app.twin.links import Links
from app.twin.orders import Order, Refusal
from app.twin.outbox import Outbox
from app.twin.rules import Rules
from app.twin.task import Outcome, Task, foresee

REFUSALS_KEPT = 10_000  # a client that hammers a full account must not fill the memory


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
        """`seed` makes ids and the seeds of tasks that name none; faults have a seed of their own."""
        self._started_with = (rules or Rules(), faults or Faults())
        self._seed = seed
        self._life = 0
        self.now = now
        self.links = Links(hashlib.sha256(f"links {seed}".encode()).digest())
        self.sources = Sources(send)
        self.outbox = Outbox(send, now)
        self.reset()

    def reset(self) -> None:
        """Be as at the start. Only ids go on, so that nobody takes a new task for a forgotten one."""
        self._life += 1
        self.rules, self.faults = self._started_with
        self.tasks: dict[str, Task] = {}
        self.accounts = Accounts()
        self.gallery = Gallery()
        self.refused: deque[dict[str, Any]] = deque(maxlen=REFUSALS_KEPT)
        self._requests = {"submit": 0, "status": 0}
        self.outbox.clear()

    def count(self, kind: str) -> int:
        """The number of this "submit" or "status" request, from 0: faults per request are drawn by it."""
        number = self._requests[kind]
        self._requests[kind] += 1
        return number

    async def accept(self, order: Order, model: str, caller: Caller) -> Task | Refusal:
        """Take the task or say why not. Returns after an early callback, should one strike."""
        sources = await self.sources.read(order)
        if isinstance(sources, Refusal):
            return sources
        task = self._admit(order, model, caller, sources)
        if isinstance(task, Refusal):
            return task
        callbacks = plan(task, self.links.url(task.origin, task), self.rules, self.faults)
        early = [one for one in callbacks if "early_callback" in task.faults and one.due_at <= task.accepted_at]
        self.outbox.add(one for one in callbacks if one not in early)
        await self._deliver(early)
        return task

    def _admit(self, order: Order, model: str, caller: Caller, sources: Sequence[Source]) -> Task | Refusal:
        """Nothing awaits in here: slots and credits are counted exactly."""
        if caller.moderated_at_submit and foresee(order.prompt).outcome is Outcome.REQUEST_MODERATED:
            return Refusal(503, "content_policy_violation", "The input may violate the content rules")
        now = self.now()
        cost = cost_of(order, model, self.rules)
        refusal = self.accounts.refusal(caller.account, model, cost, self.rules, now)
        if refusal is not None:
            return refusal
        birth = Birth(now, ordinal=len(self.tasks), seed=self._seed, life=self._life)
        task = new_task(order, model, caller, sources, birth=birth, rules=self.rules, faults=self.faults)
        self.tasks[task.id] = task
        self.accounts.take(task, now)
        self.gallery.hang(task, now)
        return task

    def refuse(self, status: int | None, why: str) -> None:
        """Note in the ledger that a submit was turned away; a status of None means it went unanswered."""
        self.refused.append({"at": self.now().isoformat(), "status": status, "why": why})

    def find(self, task_id: str) -> Task | None:
        """None also for a task that ended too long ago."""
        task = self.tasks.get(task_id)
        if task is None or task.ready_at is None:
            return task
        return task if self.now() < task.ready_at + self.rules.fetchable_for else None

    async def tick(self) -> datetime | None:
        """Do all that is due by now, deliveries included; say when the next thing is due."""
        for _, same_instant in groupby(self.outbox.take_due(), key=lambda callback: callback.due_at):
            await self._deliver(list(same_instant))
        instants = (self.outbox.next_due_at(), self.accounts.next_ready_at(self.now()))
        return min((instant for instant in instants if instant is not None), default=None)

    async def run(self) -> None:
        """Tick until cancelled. Here a slow receiver delays nobody: each delivery runs by itself."""
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
        return ledger.written(self.tasks.values(), self.accounts, self.refused, self.now())
