"""Slots and credits. An account is an API key, named by a digest of it; any key has one."""

import hashlib
from collections import defaultdict
from datetime import datetime

from app.twin.orders import Refusal
from app.twin.rules import Rules
from app.twin.task import Task


def account_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]


class Accounts:
    def __init__(self) -> None:
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._active: defaultdict[str, list[Task]] = defaultdict(list)
        # The most that any one account had in flight: of a model, and in all under "account".
        self.max_in_flight: defaultdict[str, int] = defaultdict(int)

    @property
    def charged(self) -> float:
        """Credits, over all accounts."""
        return sum(self._spent.values())

    def balance(self, account: str, rules: Rules) -> float:
        return rules.credits - self._spent[account]

    def active(self, account: str, now: datetime) -> list[Task]:
        """Tasks that hold a slot. At most 24 or so, hence a list and no index."""
        left = [task for task in self._active[account] if task.outcome_at(now) is None]
        self._active[account] = left
        return left

    def refusal(self, account: str, model: str, cost: float, rules: Rules, now: datetime) -> Refusal | None:
        """402 or 429 if this account cannot start one more task of this model."""
        active = self.active(account, now)
        of_model = sum(task.model == model for task in active)
        if len(active) >= rules.account_slots or of_model >= rules.slots[model]:
            return Refusal(429, "rate_limit_exceeded", "Too many active tasks")
        if self.balance(account, rules) < cost:
            return Refusal(402, "insufficient_credits", "Insufficient credits")
        return None

    def take(self, task: Task, now: datetime) -> None:
        """Charge the task and give it a slot."""
        self._spent[task.account] += task.cost
        active = [*self.active(task.account, now), task]
        self._active[task.account] = active
        of_model = sum(other.model == task.model for other in active)
        self.max_in_flight[task.model] = max(self.max_in_flight[task.model], of_model)
        self.max_in_flight["account"] = max(self.max_in_flight["account"], len(active))

    def next_ready_at(self, now: datetime) -> datetime | None:
        """When the next active task of any account ends."""
        tasks = (task for account in list(self._active) for task in self.active(account, now))
        return min((task.ready_at for task in tasks if task.ready_at is not None), default=None)
