"""How things stand, for whoever scrapes: tasks, queue, slots and jobs, read in one transaction that stays cheap.

Every process shows the same here, because they share the database; its own counters are in `metrics`.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app import jobs
from app.db import Connection
from app.db.queries import queue
from app.db.queries.queue import Depth
from app.db.tables import provider_accounts, tasks
from app.db.tables.provider_accounts import IN_ALL, Account
from app.errors import Unavailable
from app.resources import Resources

_PATIENCE_S = 5  # with the database: a scraper waits ten seconds

Values = Mapping[Any, float]  # by the values of a metric's labels, as a tuple


async def read(use: Resources) -> list[Metric]:
    """What the database knows now; while it is away, that it is."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            known = await use.db.read(lambda connection: families(connection, use.now()))
    except (Unavailable, TimeoutError):
        return [_database_up(0)]
    return [_database_up(1), *known]


def families(connection: Connection, now: datetime) -> list[Metric]:
    """What the database knows now."""
    everyone = provider_accounts.everyone(connection)
    limits = {(account.id, model): limit for account in everyone for model, limit in account.limits.items()}
    in_use, depths = provider_accounts.in_use(connection), queue.depths(connection)
    return [
        _gauge("tasks", "Tasks in each non-final state.", ("status",), _tasks(connection)),
        *_slots(limits, in_use),
        *_queue({*limits, *in_use}, depths, now),
        _gauge(
            "account_paused",
            "1 while submission to an account is paused.",
            ("account", "reason"),
            _pauses(everyone, now),
        ),
        *_jobs(connection, now),
    ]


def _tasks(connection: Connection) -> Values:
    return {(status,): count for status, count in tasks.count_open(connection).items()}


def _slots(limits: Values, in_use: Values) -> list[Metric]:
    whole = {(account,): limit for (account, model), limit in limits.items() if model == IN_ALL}
    single = {where: limit for where, limit in limits.items() if where[1] != IN_ALL}
    held = dict.fromkeys(single, 0) | dict(in_use)
    return [
        _gauge("slots_in_use", "Tasks that the provider has or is about to receive.", ("account", "model"), held),
        _gauge("slots_limit", "Maximum number of slots of an account.", ("account",), whole),
        _gauge(
            "model_slots_limit", "Maximum number of slots of one model in an account.", ("account", "model"), single
        ),
    ]


def _queue(known: Collection[tuple[str, ...]], depths: Iterable[Depth], now: datetime) -> list[Metric]:
    lengths = {where: 0.0 for where in known if where[1] != IN_ALL}
    ages = dict(lengths)
    for each in depths:
        where = (each.account_id, each.model)
        lengths[where], ages[where] = each.length, _age(each.since, now)
    return [
        _gauge("queue_depth", "Queued tasks that wait for a slot.", ("account", "model"), lengths),
        _gauge(
            "queue_oldest_seconds", "Longest time that a queued task has waited for a slot.", ("account", "model"), ages
        ),
    ]


def _pauses(everyone: Iterable[Account], now: datetime) -> Values:
    return {
        (account.id, reason): float(account.paused(now) and account.pause_reason == reason)
        for account in everyone
        for reason in (provider_accounts.NO_FREE_SLOT, provider_accounts.OUT_OF_CREDITS)
    }


def _jobs(connection: Connection, now: datetime) -> list[Metric]:
    backlogs = jobs.backlogs(connection, now)
    waiting, due, ages = (
        {(step,): read(each) for step, each in backlogs.items()}
        for read in (
            lambda each: each.waiting,
            lambda each: each.due,
            lambda each: _age(each.oldest_due or now, now),
        )
    )
    held = {(): jobs.count_dead_letters(connection)}
    return [
        _gauge("jobs_waiting", "Waiting jobs, due or not.", ("step",), waiting),
        _gauge("jobs_due", "Waiting jobs that are due.", ("step",), due),
        _gauge("jobs_oldest_due_seconds", "Longest time that a waiting job has been due.", ("step",), ages),
        _gauge("jobs_held", "Dead letters: jobs that failed their last attempt and are not retried.", (), held),
    ]


def _database_up(up: int) -> Metric:
    return _gauge("database_up", "1 if the database answered this scrape, else 0.", (), {(): up})


def _age(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since) / timedelta(seconds=1))


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(f"fluxhook_{name}", text, labels=labels)
    for where, value in values.items():
        family.add_metric(where, value)
    return family
