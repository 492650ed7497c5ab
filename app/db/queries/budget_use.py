"""How far budgets are used: those of applications, and that of the service."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from app.db.tables.applications import applications
from app.db.tables.budget_periods import ALL, PeriodId, budget_periods
from app.rules.budget import Budget, Period


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """A budget in its current period. `owner`: the id of an application, or ALL, which has no name."""

    owner: str
    name: str | None
    budget: Budget
    spent: float

    @property
    def ratio(self) -> float:
        """The used part; 1 for a budget of nothing."""
        return self.spent / self.budget.credits if self.budget.credits else 1.0


def current(connection: Connection, of_service: Budget | None, now: datetime) -> list[BudgetUse]:
    """Return the use of every budget, the most used first. Disabled applications are left out."""
    rows = connection.execute(
        select(applications.c.id, applications.c.name, applications.c.budget).where(
            applications.c.budget.is_not(None), applications.c.disabled_at.is_(None)
        )
    ).all()
    budgets = [(row.id, row.name, Budget.of_json(row.budget)) for row in rows]
    if of_service is not None:
        budgets.append((ALL, None, of_service))
    if not budgets:
        return []
    starts = [period.start(now) for period in Period]
    found = connection.execute(select(budget_periods).where(budget_periods.c.starts_at.in_(starts)))
    spent = {PeriodId(row.owner, Period(row.period), row.starts_at): row.spent for row in found}
    uses = [
        BudgetUse(owner, name, budget, spent.get(PeriodId(owner, budget.period, budget.period.start(now)), 0.0))
        for owner, name, budget in budgets
    ]
    return sorted(uses, key=lambda use: (-use.ratio, use.owner))
