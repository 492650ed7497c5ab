"""Slots and credits of accounts. Each API key has an account of its own, named by a digest of the key."""

import hashlib
from collections import defaultdict
from datetime import datetime

from app.twin.rules import Rules
from app.twin.submit_request import Refusal
from app.twin.task import Task


def account_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]


class Accounts:
    def __init__(self) -> None:
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._active: defaultdict[str, list[Task]] = defaultdict(list)
        # The highest number of tasks in flight of any one account: by model, and in total under "account".
        self.max_in_flight: defaultdict[str, int] = defaultdict(int)

    @property
    def charged(self) -> float:
        """The credits charged to all accounts together."""
        return sum(self._spent.values())

    def balance(self, account: str, rules: Rules) -> float:
        return rules.credits - self._spent[account]

    def active(self, account: str, now: datetime) -> list[Task]:
        """Return the tasks that take a slot. They are few (24 by default), so a list is enough."""
        active = [task for task in self._active[account] if task.outcome_at(now) is None]
        self._active[account] = active
        return active

    def refusal(self, account: str, model: str, cost: float, rules: Rules, now: datetime) -> Refusal | None:
        """Return the refusal, 402 or 429, if the account cannot start another task of this model."""
        active = self.active(account, now)
        of_model = sum(task.model == model for task in active)
        if len(active) >= rules.account_slots or of_model >= rules.slots.get(model, rules.account_slots):
            return Refusal(429, "rate_limit_exceeded", "Too many active tasks")
        if self.balance(account, rules) < cost:
            return Refusal(402, "insufficient_credits", "Insufficient credits")
        return None

    def take(self, task: Task, now: datetime) -> None:
        """Charge the task and give it a slot."""
        self._spent[task.account] += task.charged
        active = [*self.active(task.account, now), task]
        self._active[task.account] = active
        of_model = sum(other.model == task.model for other in active)
        self.max_in_flight[task.model] = max(self.max_in_flight[task.model], of_model)
        self.max_in_flight["account"] = max(self.max_in_flight["account"], len(active))

    def next_ready_at(self, now: datetime) -> datetime | None:
        """Return when the next active task of any account ends, or None."""
        tasks = (task for account in list(self._active) for task in self.active(account, now))
        return min((task.ready_at for task in tasks if task.ready_at is not None), default=None)
