"""Limits and budgets of applications, as answers show them."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from app.rules.budget import Budget, Period
from app.rules.limits import Limits


class LimitsView(BaseModel):
    """The limits that hold for an application. Null: no limit."""

    in_flight: Annotated[int | None, Field(description="Tasks at the provider at once.")]
    queued: Annotated[int | None, Field(description="Queued tasks.")]
    posts_per_minute: Annotated[int | None, Field(description="Tasks posted or resubmitted in a minute.")]
    uploads: Annotated[
        int | None,
        Field(description="Bodies above 64 KB that a process receives, and images that it fetches, at once."),
    ]
    streams: Annotated[int | None, Field(description="Event streams that a process serves at once.")]
    deliveries: Annotated[int | None, Field(description="Webhooks that a process sends at once.")]
    tests_per_minute: Annotated[int | None, Field(description="Test deliveries in a minute.")]
    priority: Annotated[int, Field(description="The highest priority of a task.")]


class InUse(BaseModel):
    """What the application uses at present."""

    in_flight: int
    queued: int


class BudgetView(BaseModel):
    """A budget in its current period, in credits."""

    credits: float
    period: Period
    spent: Annotated[float, Field(description="With what is reserved for open tasks.")]
    remaining: float
    resets_at: datetime


class ApplicationLimits(BaseModel):
    """What an application may use and spend, and what it uses and has spent."""

    application_id: str
    limits: LimitsView
    in_use: InUse
    budget: Annotated[BudgetView | None, Field(description="Null: the application has no budget of its own.")]
    service_budget: Annotated[
        BudgetView | None, Field(description="The budget of all applications together; only for an admin key.")
    ]


def limits_view(limits: Limits) -> LimitsView:
    return LimitsView.model_validate(limits, from_attributes=True)


def budget_view(budget: Budget, spent: float, now: datetime) -> BudgetView:
    return BudgetView(
        credits=budget.credits,
        period=budget.period,
        spent=round(spent, 6),
        remaining=budget.remaining(spent),
        resets_at=budget.period.end(now),
    )
