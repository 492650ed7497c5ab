"""Reserve credits for a task, and settle what it cost, in the transaction that records the task or ends it.

A period of a budget is a row. A transaction locks it after the task and before the account of the provider, so two
processes never spend the same credits, and no two transactions wait for each other. What a task counts with is always
computed from its rows, so settling twice changes nothing more.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from app.catalog import Model
from app.db import Connection
from app.db.engine.bulk import DeferredWrites
from app.db.engine.commit_hooks import after_commit
from app.db.queries.spending import Reservation, reservations_of, spent_since
from app.db.tables import applications, budget_periods, events, reservations, task_updates, tasks
from app.db.tables.budget_periods import ALL, PeriodId, Spending
from app.db.tables.events import BUDGET_WARNING, NewEvent
from app.db.tables.reservations import NewAmount, NewReservation
from app.errors import BudgetExceeded, Conflict
from app.resources import Policy
from app.rules.budget import Budget, BudgetWarning, Standing, charge, standing
from app.telemetry import logs, metrics
from app.webhooks import outbox

log = logs.get("budgets")


class Payer(NamedTuple):
    """A budget that pays for a task; `owner` is an application's id, or ALL."""

    owner: str
    budget: Budget


class Price(NamedTuple):
    """The budgets that pay for a task, and what it may cost in credits until the provider states its cost."""

    payers: Sequence[Payer]
    credits: float


def estimate(use: Policy, model: Model) -> float:
    """Return what a task of this model may cost, in credits: the hint in its row, else the configured number."""
    return use.unpriced_credits if model.credits is None else model.credits


def price(use: Policy, application_id: str, budget: Budget | None, model: Model) -> Price:
    """Return who pays for a task of this application, and what it may cost. `budget`: its own."""
    payers = [] if budget is None else [Payer(application_id, budget)]
    if use.budget is not None:
        payers.append(Payer(ALL, use.budget))
    return Price(payers, estimate(use, model))


def reserve(
    connection: Connection, price: Price, task_ids: Sequence[str], now: datetime, *, turn: int = 1, first: int = 1
) -> None:
    """Hold what each of these tasks may cost in each budget that pays for it, all or none. Raises BudgetExceeded.

    `turn`: how often the tasks were submitted. `first`: the number of their next attempt.
    """
    held = []
    for payer in sorted(price.payers):
        period = PeriodId(payer.owner, payer.budget.period, payer.budget.period.start(now))
        new_tasks = task_ids if turn == 1 else ()
        spent = _spend(connection, payer, period, len(task_ids) * price.credits, now, new_tasks)
        if spent is not None and payer.owner != ALL:
            _announce_warning(connection, payer.owner, BudgetWarning.of(payer.budget, spent, now), task_ids[-1], now)
        held += [NewReservation(task_id, turn, first, period, price.credits) for task_id in task_ids]
    if held:
        reservations.insert(connection, held)


def reserve_again(connection: Connection, price: Price, task_id: str, first: int, now: datetime) -> None:
    """Hold credits for a failed task that is resubmitted. The caller must hold the task's lock, and reopen it after.

    What the earlier attempts count with stays in the budgets that paid for them. Raises BudgetExceeded.
    """
    earlier = reservations_of(connection, [task_id])
    last = next((row for row in earlier if row.is_last), None)
    if last is not None:
        free = standing(last.status, last.money_spent) is Standing.FREE
        reservations.end_at(connection, task_id, first, release=free)
    turn = 1 + max((row.round for row in earlier), default=0)
    reserve(connection, price, [task_id], now, turn=turn, first=first)


def adopt(
    connection: Connection, application_id: str, before: Budget | None, budget: Budget | None, now: datetime
) -> None:
    """Let a budget that an application gets count what its current period has cost already.

    A row of the period may be of an earlier budget, and know nothing of the tasks that were posted in between. The
    caller must hold the application's lock.
    """
    if budget is None or (before is not None and before.period is budget.period):
        return
    period = PeriodId(application_id, budget.period, budget.period.start(now))
    known = budget_periods.lock(connection, period)
    spent = spent_since(connection, period.starts_at, application_id)
    if known is None:
        budget_periods.create(connection, period, spent)
    elif spent > known.spent:  # less is what a task of an earlier period cost that was resubmitted in this one
        budget_periods.add(connection, period, spent - known.spent)


def settle(connection: Connection, task_ids: Collection[str]) -> None:
    """Count each of these tasks with what it cost, as its rows say now. The caller must hold the tasks' locks."""
    if not task_ids:
        return
    rows = reservations_of(connection, task_ids)
    amounts = [(row, _amount(row)) for row in rows]
    changed = [(row, amount) for row, amount in amounts if amount != row.amount]
    if not changed:
        return
    differences: dict[PeriodId, float] = defaultdict(float)
    for row, amount in changed:
        differences[row.period] += amount - row.amount
    for period in sorted(differences):
        budget_periods.add(connection, period, differences[period])
    reservations.set_amounts(
        connection, [NewAmount(row.task_id, row.round, row.period.owner, amount) for row, amount in changed]
    )


def state_cost(connection: Connection, task_id: str, cost: float) -> bool:
    """Let an ended task of unknown cost count with what a person states, until the provider states its cost.

    Return False for an unknown task. Raises Conflict for a task that has not ended or whose cost is known.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None:
        return False
    if not task.status.final:
        raise Conflict(f"the task is {task.status}: it has not ended, and may still cost something")
    if task.cost is not None:
        raise Conflict("the provider has stated its cost")
    if standing(task.status, task.money_spent) is Standing.FREE:
        raise Conflict("the task certainly cost nothing")
    task_updates.set_estimated_cost(connection, task_id, cost)
    reservations.hold(connection, task_id, cost)
    settle(connection, [task_id])
    return True


def _amount(row: Reservation) -> float:
    of = standing(row.status, row.money_spent) if row.is_last else Standing.SPENT
    if of is Standing.SPENT and not row.sent:
        of = Standing.FREE  # an attempt before the task was resubmitted has ended it
    return charge(row.reserved, row.cost, of)


def _spend(
    connection: Connection, payer: Payer, period: PeriodId, amount: float, now: datetime, new_tasks: Sequence[str]
) -> float | None:
    """Add an amount to what is spent. The first time in a period, what was posted before there was a budget counts.

    Return what is spent if this is the first time in the period that the budget is nearly used, else None.
    """
    owner, budget = payer
    spending = budget_periods.lock(connection, period)
    if spending is None:
        application_id = None if owner == ALL else owner
        budget_periods.create(connection, period, spent_since(connection, period.starts_at, application_id, new_tasks))
        spending = budget_periods.lock(connection, period) or Spending(0, warned=False)
    if not budget.affords(spending.spent, amount):
        raise _exceeded(payer, spending.spent, amount, now)
    budget_periods.add(connection, period, amount)
    spent = spending.spent + amount
    if spending.warned or not budget.nearly_used(spent):
        return None
    budget_periods.mark_warned(connection, period, now)
    after_commit(connection, lambda: _warn(payer, spent))
    return spent


def _announce_warning(
    connection: Connection, application_id: str, warning: BudgetWarning, task_id: str, now: datetime
) -> None:
    """Tell the application whose budget is nearly used: by its default webhook, and by an event with the posted task.

    An event belongs to the application of its task. A task that another application resubmits is not of the one that
    pays: the webhook alone reports it. The budget of the service belongs to none: it is in the log and the metrics.
    """
    application = applications.get(connection, application_id)
    if application is not None:
        outbox.plan_budget_warning(connection, application, warning, now)
    task = tasks.get(connection, task_id)
    if task is None or task.application_id != application_id:
        return
    facts = {
        "budget": warning.budget.as_json(),
        "spent": warning.spent,
        "remaining": warning.remaining,
        "resets_at": warning.resets_at.isoformat(),
    }
    writes = DeferredWrites(connection)
    events.append(writes, [NewEvent(BUDGET_WARNING, task_id, json.dumps(facts), now)])
    writes.send()


def _exceeded(payer: Payer, spent: float, amount: float, now: datetime) -> BudgetExceeded:
    whose = "the budget of this service" if payer.owner == ALL else "the application's budget"
    left, resets_at = payer.budget.remaining(spent), payer.budget.period.end(now)
    return BudgetExceeded(
        f"{whose} is {payer.budget} credits, and {left:g} are left: the task may cost {amount:g}", left, resets_at
    )


def _warn(payer: Payer, spent: float) -> None:
    metrics.budget_warnings.inc()
    log.warning("budget_nearly_used", owner=payer.owner, budget=str(payer.budget), spent=round(spent, 6))
