"""Budgets: what is reserved when a task is recorded, and what it counts with after each way in which it can end."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from app import ids
from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import attempts, budget_periods, task_updates, tasks
from app.db.tables.budget_periods import ALL, PeriodId
from app.db.tables.evidence import Evidence
from app.errors import BudgetExceeded
from app.rules.budget import Budget, Period
from app.rules.task import Failure, MoneySpent, Report, Said, Status, Witness
from app.security.verify import Verdict
from app.settle import settle
from app.transitions import budgets, moves
from app.transitions.budgets import Payer, Price
from tests.rows import START, plan_task, put_account

APP = "app_a"
TODAY = Period.DAY.start(START)


def price(amount: float = 4, limit: float = 40, *owners: str) -> Price:
    return Price([Payer(owner, Budget(limit, Period.DAY)) for owner in owners or (APP,)], amount)


def post(connection: Connection, name: str = "1", of: Price | None = None) -> None:
    """Record a task as `submit` does."""
    budgets.reserve(connection, of or price(), [f"task_{name}"], START)
    plan_task(connection, name, estimated_cost=(of or price()).credits)


def send(connection: Connection, name: str = "1") -> None:
    task_updates.move(connection, f"task_{name}", Status.SUBMITTING, START)
    attempts.mark_sent(connection, f"sub_{name}", START, callback_requested=True)


def hear(connection: Connection, said: Said, name: str = "1", witness: Witness = Witness.SUBMIT, **report: Any) -> None:
    """Settle what a witness says about the task."""
    body = f"{said} {report}".encode()
    piece = Evidence(f"sub_{name}", witness, Verdict.FETCHED, True, Report(said, **report), body, START, "{}", 200)
    settle(connection, [piece], poll_after=timedelta(seconds=5))


def spent(connection: Connection, owner: str = APP) -> float:
    period = PeriodId(owner, Period.DAY, TODAY)
    return budget_periods.read(connection, [period]).get(period, 0.0)


def real_name(at: datetime) -> str:
    """Return the name of a task whose id states when it was created."""
    return ids.new_id("task", at).removeprefix("task_")


async def counted(database: Database, *steps: Any) -> list[float]:
    """Run each step on one task, and return what is counted after it."""

    def unit(connection: Connection) -> list[float]:
        put_account(connection)
        post(connection)
        found = [spent(connection)]
        for step in steps:
            step(connection)
            found.append(spent(connection))
        return found

    return await database.write(unit)


def fail(money: MoneySpent) -> Any:
    return lambda connection: moves.give_up(connection, "task_1", Failure.UNKNOWN_OUTCOME, money, "unknown", START)


def cancel(connection: Connection) -> None:
    moves.cancel(connection, "task_1", START)


def expire(connection: Connection) -> None:
    moves.expire(connection, ["task_1"], Failure.DEADLINE_EXCEEDED, "late", START)


def accept(connection: Connection) -> None:
    hear(connection, Said.PENDING, provider_id="p1", cost=3.0)


def accept_without_cost(connection: Connection) -> None:
    hear(connection, Said.PENDING, provider_id="p1")


def finish(connection: Connection) -> None:
    hear(connection, Said.READY, witness=Witness.POLL, sample_url="https://x/y.png")


def state_two(connection: Connection) -> None:
    hear(connection, Said.READY, witness=Witness.POLL, cost=2.0, provider_id="p1")


def refuse(connection: Connection) -> None:
    hear(connection, Said.REFUSED, failure=Failure.PROVIDER_REJECTED)


@pytest.mark.parametrize(
    ("steps", "amounts"),
    [
        ([cancel], [4, 0]),
        ([expire], [4, 0]),
        ([send, refuse], [4, 4, 0]),
        ([send, accept, finish], [4, 4, 4, 3]),
        ([send, accept_without_cost, finish], [4, 4, 4, 4]),
        ([send, accept, finish, state_two], [4, 4, 4, 3, 2]),
        ([send, fail(MoneySpent.MAYBE)], [4, 4, 4]),
        ([send, accept, fail(MoneySpent.MAYBE)], [4, 4, 4, 3]),
        ([send, fail(MoneySpent.NO)], [4, 4, 0]),
        ([send, fail(MoneySpent.MAYBE), lambda c: budgets.state_cost(c, "task_1", 0)], [4, 4, 4, 0]),
        ([send, fail(MoneySpent.MAYBE), lambda c: budgets.state_cost(c, "task_1", 0), accept], [4, 4, 4, 0, 3]),
    ],
    ids=[
        *("cancelled", "expired", "refused", "stored", "cost unknown", "cost changed late", "unknown outcome"),
        *("lost with a cost", "surely free", "stated by a person", "stated by the provider afterwards"),
    ],
)
async def test_a_task_counts_with_what_it_cost(database: Database, steps: list[Any], amounts: list[float]) -> None:
    assert await counted(database, *steps) == amounts


def resubmit(connection: Connection) -> None:
    assert moves.resubmit(connection, "task_1", START, price())


def send_again(connection: Connection) -> None:
    task_updates.move(connection, "task_1", Status.SUBMITTING, START, attempt_id="sub_2")
    attempts.plan(connection, attempts.NewAttempt("sub_2", "task_1", 2, "bfl", "ring", START))
    attempts.mark_sent(connection, "sub_2", START, callback_requested=True)


async def test_a_resubmit_reserves_again_and_each_attempt_settles_its_own_reservation(database: Database) -> None:
    def finish_second(connection: Connection) -> None:
        hear(connection, Said.READY, name="2", cost=6.0, sample_url="https://x/y.png")

    def late_first(connection: Connection) -> None:
        hear(connection, Said.READY, witness=Witness.POLL, cost=1.0)

    steps = [send, fail(MoneySpent.MAYBE), resubmit, send_again, finish_second, late_first]

    assert await counted(database, *steps) == [4, 4, 4, 8, 8, 10, 7]


async def test_a_result_of_the_first_attempt_releases_what_a_resubmit_has_reserved(database: Database) -> None:
    def result(connection: Connection) -> None:
        hear(connection, Said.READY, witness=Witness.POLL, cost=3.0, sample_url="https://x/y.png")

    assert await counted(database, send, fail(MoneySpent.MAYBE), resubmit, result) == [4, 4, 4, 8, 3]


async def test_a_resubmit_is_charged_to_the_application_that_asks_for_it(database: Database) -> None:
    def unit(connection: Connection) -> tuple[float, float]:
        put_account(connection)
        post(connection)
        send(connection)
        fail(MoneySpent.MAYBE)(connection)
        moves.resubmit(connection, "task_1", START, price(4, 40, "app_b"))
        return spent(connection), spent(connection, "app_b")

    assert await database.write(unit) == (4, 4)


async def test_a_refused_resubmit_leaves_the_task_failed(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        put_account(connection)
        post(connection, of=price(4, 4))
        send(connection)
        fail(MoneySpent.MAYBE)(connection)

    await database.write(prepare)
    with pytest.raises(BudgetExceeded):
        await database.write(moves.resubmit, "task_1", START, price(4, 4))

    task = await database.read(tasks.get, "task_1")
    assert task is not None
    assert (task.status, await database.read(spent)) == (Status.FAILED, 4)


async def test_exactly_the_affordable_number_of_parallel_tasks_passes(database: Database) -> None:
    of_both = price(4, 30, APP, ALL)

    async def try_post(name: str) -> bool | None:
        try:
            await database.write(post, name, of_both)
        except BudgetExceeded as refusal:
            return refusal.remaining == 2 and refusal.resets_at == TODAY + timedelta(days=1)
        return None

    answers = await asyncio.gather(*(try_post(str(number)) for number in range(20)))

    assert (answers.count(None), answers.count(True)) == (7, 13)
    assert await database.read(spent) == await database.read(spent, ALL) == 28


async def test_a_task_that_one_budget_refuses_holds_nothing_of_the_other(database: Database) -> None:
    small = Price([Payer(APP, Budget(3, Period.DAY)), Payer(ALL, Budget(40, Period.DAY))], 4)

    with pytest.raises(BudgetExceeded):
        await database.write(post, "1", small)

    assert await database.read(spent, ALL) == 0


async def test_a_new_budget_counts_what_its_period_has_seen(database: Database) -> None:
    def unit(connection: Connection) -> float:
        put_account(connection)
        yesterday = START - timedelta(days=1)
        for changes in ({"cost": 3.0, "status": "stored"}, {"estimated_cost": 2.0}):
            plan_task(connection, real_name(START), **changes)
        plan_task(connection, real_name(yesterday), at=yesterday, cost=30.0, status="stored")
        budgets.reserve(connection, price(4, 40, ALL), ["task_new"], START)
        return spent(connection, ALL)

    assert await database.write(unit) == 3 + 2 + 4
