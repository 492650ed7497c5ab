"""The metrics snapshot: gauges of tasks, queue, slots and jobs, read from the database at each scrape.

One cheap transaction reads all of them. They are the same in every process that shares the database; the counters of a
process are in `telemetry/metrics`.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from app import jobs
from app.db import Connection
from app.db.engine.database import is_read_only
from app.db.queries import budget_use, queue
from app.db.queries.feed_delay import oldest_writer
from app.db.queries.queue import Depth
from app.db.tables import events, provider_accounts, slots, tasks
from app.db.tables.budget_periods import ALL
from app.db.tables.provider_accounts import IN_ALL, Account
from app.errors import Unavailable
from app.resources import Resources
from app.rules.budget import Budget

_MAX_BUDGETS = 100  # the most used; a series for each of thousands of applications would burden Prometheus
_TIMEOUT_S = 5  # for the database; Prometheus gives up after ten seconds

Values = Mapping[Any, float]  # keyed by the tuple of label values


async def read(use: Resources) -> list[Metric]:
    """Read all gauges. If the database is unavailable or slow, return only `database_up` with the value 0.

    The value is 0 too for a database that cannot be written: no work can be recorded then.
    """

    def work(connection: Connection) -> tuple[bool, list[Metric]]:
        return is_read_only(connection), families(connection, use.now(), use.budget)

    try:
        async with asyncio.timeout(_TIMEOUT_S):
            read_only, gauges = await use.db.read(work)
    except (Unavailable, TimeoutError):
        return [_database_up(0)]
    return [_database_up(0 if read_only else 1), *gauges]


def families(connection: Connection, now: datetime, of_service: Budget | None = None) -> list[Metric]:
    """Read all gauges but `database_up`. `of_service`: the budget of all applications together."""
    accounts = provider_accounts.list_all(connection)
    limits = {(account.id, model): limit for account in accounts for model, limit in account.limits.items()}
    in_use, queued = slots.in_use(connection), queue.queued(connection)
    return [
        _gauge("tasks", "Tasks in each non-final state.", ("status",), _tasks(connection, queued.count)),
        *_slots(limits, in_use),
        _gauge(
            "slots_allowed",
            "Maximum number of slots of an account now: refusals for lack of a slot lower it for a while.",
            ("account",),
            {(account.id,): account.allowed(now) for account in accounts},
        ),
        *_queue({*limits, *in_use}, queued.depths, now),
        _gauge(
            "account_paused",
            "1 while submission to an account is paused.",
            ("account", "reason"),
            _pauses(accounts, now),
        ),
        *_jobs(connection, now),
        *_feed(connection, now),
        _gauge(
            "budget_used_ratio",
            "Used part of a budget in its current period; `*`: of the service, 0 without a budget. At most 100 series.",
            ("application",),
            _budgets(connection, of_service, now),
        ),
    ]


def _tasks(connection: Connection, queued: int) -> Values:
    return {(status,): count for status, count in tasks.count_open(connection, queued=queued).items()}


def _budgets(connection: Connection, of_service: Budget | None, now: datetime) -> Values:
    most_used = budget_use.current(connection, of_service, now)[:_MAX_BUDGETS]
    return {(ALL,): 0.0} | {(use.owner,): use.ratio for use in most_used}


def _slots(limits: Values, in_use: Values) -> list[Metric]:
    totals = {(account,): limit for (account, model), limit in limits.items() if model == IN_ALL}
    by_model = {labels: limit for labels, limit in limits.items() if labels[1] != IN_ALL}
    taken = dict.fromkeys(by_model, 0) | dict(in_use)
    return [
        _gauge("slots_in_use", "Tasks that the provider has or is about to receive.", ("account", "model"), taken),
        _gauge("slots_limit", "Maximum number of slots of an account.", ("account",), totals),
        _gauge(
            "model_slots_limit", "Maximum number of slots of one model in an account.", ("account", "model"), by_model
        ),
    ]


def _queue(series: Collection[tuple[str, ...]], depths: Iterable[Depth], now: datetime) -> list[Metric]:
    lengths = {labels: 0.0 for labels in series if labels[1] != IN_ALL}
    ages = dict(lengths)
    for depth in depths:
        labels = (depth.account_id, depth.model)
        lengths[labels], ages[labels] = depth.length, _age(depth.since, now)
    return [
        _gauge("queue_depth", "Queued tasks that wait for a slot.", ("account", "model"), lengths),
        _gauge(
            "queue_oldest_seconds", "Longest time that a queued task has waited for a slot.", ("account", "model"), ages
        ),
    ]


def _pauses(accounts: Iterable[Account], now: datetime) -> Values:
    return {
        (account.id, reason): float(account.paused(now) and account.pause_reason == reason)
        for account in accounts
        for reason in provider_accounts.REASONS
    }


def _jobs(connection: Connection, now: datetime) -> list[Metric]:
    backlogs = jobs.backlogs(connection, now)
    waiting, due, ages = (
        {(step,): value(backlog) for step, backlog in backlogs.items()}
        for value in (
            lambda backlog: backlog.waiting,
            lambda backlog: backlog.due,
            lambda backlog: _age(backlog.oldest_due or now, now),
        )
    )
    dead_letters = {(): jobs.count_dead_letters(connection)}
    return [
        _gauge("jobs_waiting", "Waiting jobs, due or not.", ("step",), waiting),
        _gauge("jobs_due", "Waiting jobs that are due.", ("step",), due),
        _gauge("jobs_oldest_due_seconds", "Longest time that a waiting job has been due.", ("step",), ages),
        _gauge("jobs_held", "Dead letters: jobs that failed their last attempt and are not retried.", (), dead_letters),
    ]


def _feed(connection: Connection, now: datetime) -> list[Metric]:
    writer, waiting_since = oldest_writer(connection), events.pending_since(connection)
    age = writer.age / timedelta(seconds=1) if writer is not None and writer.age is not None else 0
    delay = 0 if waiting_since is None else _age(waiting_since, now)
    return [
        _gauge(
            "feed_delay_seconds",
            "Longest time that a committed event has waited for older transactions to end, and is not visible yet.",
            (),
            {(): delay},
        ),
        _gauge(
            "feed_oldest_transaction_seconds",
            "Age of the oldest open transaction on the server that has written: newer events wait for its end.",
            (),
            {(): age},
        ),
    ]


def _database_up(up: int) -> Metric:
    return _gauge("database_up", "1 if the database answered this scrape and can be written, else 0.", (), {(): up})


def _age(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since) / timedelta(seconds=1))


def _gauge(name: str, description: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(f"fluxhook_{name}", description, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
