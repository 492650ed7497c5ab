"""Budgets: the periods in which credits count, what a task counts with, and when another task is affordable. Pure."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from app.rules.json_value import JsonObject, JsonValue
from app.rules.task import MoneySpent, Status

WARN_AT = 0.8  # the part of a budget from which on its use is reported
_ROUNDING = 1e-6  # sums of credits are binary fractions; a task is not refused for the error of their addition
_DECEMBER = 12


class Period(StrEnum):
    """How often a budget starts anew, in UTC."""

    DAY = "day"
    MONTH = "month"

    def start(self, now: datetime) -> datetime:
        """Return the start of the period that contains `now`."""
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day if self is Period.DAY else day.replace(day=1)

    def end(self, now: datetime) -> datetime:
        """Return the start of the next period."""
        start = self.start(now)
        if self is Period.DAY:
            return start + timedelta(days=1)
        years, month = divmod(start.month, _DECEMBER)
        return start.replace(year=start.year + years, month=month + 1)


@dataclass(frozen=True, slots=True)
class Budget:
    """The credits that may be spent in each period."""

    credits: float
    period: Period

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read `40/day` or `1200/month`. Raises ValueError."""
        amount, slash, period = text.partition("/")
        try:
            parsed = cls(float(amount), Period(period.strip()))
        except ValueError:
            parsed = None
        if not slash or parsed is None or not math.isfinite(parsed.credits) or parsed.credits < 0:
            raise ValueError("must be credits per day or month, such as 40/day or 1200/month")
        return parsed

    @classmethod
    def of_json(cls, stored: JsonObject) -> "Budget":
        """Read the form in which the budget of an application is stored."""
        return cls(float(str(stored["credits"])), Period(str(stored["period"])))

    def as_json(self) -> dict[str, JsonValue]:
        """Return the form in which the budget of an application is stored."""
        return {"credits": self.credits, "period": str(self.period)}

    def __str__(self) -> str:
        return f"{self.credits:g}/{self.period}"

    def remaining(self, spent: float) -> float:
        """Return the credits that are left, never less than 0."""
        return max(0.0, round(self.credits - spent, 6))

    def affords(self, spent: float, amount: float) -> bool:
        """Return whether `amount` more can be spent after `spent`."""
        return spent + amount <= self.credits + _ROUNDING

    def nearly_used(self, spent: float) -> bool:
        """Return whether so much is spent that an operator should know. A budget of 0 credits has nothing to use."""
        return 0 < self.credits * WARN_AT <= spent


@dataclass(frozen=True, slots=True)
class BudgetWarning:
    """A budget that is nearly used: what is spent of it, in credits with what open tasks may cost, and its end."""

    budget: Budget
    spent: float
    resets_at: datetime

    @classmethod
    def of(cls, budget: Budget, spent: float, now: datetime) -> "BudgetWarning":
        return cls(budget, round(spent, 6), budget.period.end(now))

    @property
    def remaining(self) -> float:
        return self.budget.remaining(self.spent)


class Standing(StrEnum):
    """What is known about the money of a task, or of the attempts since it was last resubmitted."""

    OPEN = "open"  # it may still cost something
    FREE = "free"  # it ended, and certainly cost nothing that the provider did not state
    SPENT = "spent"  # the provider has accepted it, or may have


def standing(status: Status, money_spent: MoneySpent | None) -> Standing:
    """Return the standing of a task in this status; `money_spent`: of a failed task."""
    match status:
        case Status.QUEUED | Status.SUBMITTING | Status.SUBMITTED:
            return Standing.OPEN
        case Status.CANCELLED:
            return Standing.FREE
        case Status.FAILED if money_spent is MoneySpent.NO:
            return Standing.FREE
        case _:
            return Standing.SPENT


def charge(reserved: float, cost: float | None, of: Standing) -> float:
    """Return the credits that a task counts with.

    What the provider states counts, also 0. Without it, the reservation counts unless the task certainly cost nothing.
    While the task is open, a lower cost does not release the rest: another attempt may follow.
    """
    if cost is None:
        return 0.0 if of is Standing.FREE else reserved
    return max(cost, reserved) if of is Standing.OPEN else cost
