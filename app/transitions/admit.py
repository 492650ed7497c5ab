"""Give free slots to queued tasks: by priority, then fairly between API keys, then in the order of arrival.

It runs in whatever transaction queues a task, frees a slot or ends a pause, so no wake-up can be lost. A task
that was admitted holds a slot and has a job; one that was not waits for the next call.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from app import jobs
from app.db import Connection
from app.db.queries import queue
from app.db.queries.queue import Candidate
from app.db.tables import provider_accounts, tasks
from app.db.tables.attempts import AttemptContext
from app.db.tables.provider_accounts import IN_ALL, Account
from app.jobs import Step
from app.resources import Resources
from app.rules.backoff import BUSY, UNPAID
from app.rules.task import Status

_SOON = timedelta(seconds=1)


def admit(connection: Connection, account_id: str, now: datetime) -> list[str]:
    """Fill the free slots of an account, unless it is paused; whose they are now."""
    account = provider_accounts.lock(connection, account_id)
    if account is None or account.paused(now):
        return []
    admitted: list[str] = []
    held = provider_accounts.slots_taken(connection, account_id)
    in_flight = Counter(slot.model for slot in held)
    free = sorted(set(range(1, account.limits[IN_ALL] + 1)) - {slot.number for slot in held})
    taken: set[str] = set()  # by somebody else
    more = True
    while free and more:
        room = len(free) + len(taken)
        waiting = queue.next_tasks(connection, account_id, now, _full(account, in_flight), room)
        more = len(waiting) == room  # else these were all: who is left out below has a model that is full
        taken |= _taken(connection, waiting, now)
        rows: list[dict[str, Any]] = []
        for task in waiting:
            if not free or task.id in taken or task.model in _full(account, in_flight):
                continue  # a model that filled up within this round is left out by the next one
            in_flight[task.model] += 1
            named = {"task_id": task.id, "key_id": task.key_id, "model": task.model}
            rows.append({**named, "account_id": account_id, "number": free.pop(0), "taken_at": now})
        if rows:
            provider_accounts.take(connection, rows)
        jobs.enqueue(connection, [(Step.DISPATCH, row["task_id"], now) for row in rows])
        admitted += [row["task_id"] for row in rows]
    return admitted


def _taken(connection: Connection, waiting: Sequence[Candidate], now: datetime) -> set[str]:
    """Those whom somebody else is about to move: who cancels or ends a task that waits sees no slot to free.

    What became of them is looked at soon; waiting for them here, we might wait for each other.
    """
    ids = {task.id for task in waiting}
    taken = ids - queue.lock_rows(connection, ids) if ids else ids
    jobs.enqueue(connection, [(Step.ADMIT, task_id, now + _SOON) for task_id in sorted(taken)])
    return taken


def pause(connection: Connection, attempt: AttemptContext, reason: str, wait: timedelta | None, now: datetime) -> None:
    """Admit nobody for as long as the provider asked, else longer with each refusal in a row; then try again.

    What was under way when the pause began may be refused too: that is the same refusal, not one more.
    """
    account = provider_accounts.lock(connection, attempt.account_id)
    if account is None:
        return
    backoff = UNPAID if reason == provider_accounts.OUT_OF_CREDITS else BUSY
    refusals = max(1, account.refusals + (not account.paused(now)))
    until = now + (wait or backoff.wait(refusals))
    if account.paused_until_at is None or account.paused_until_at < until:
        provider_accounts.pause(connection, account.id, now, until, reason, refusals)
        jobs.enqueue(connection, [(Step.ADMIT, attempt.task_id, until)])


def resume(connection: Connection, account_id: str, now: datetime) -> None:
    """The provider took a task: refusals are over. A pause lasts as long as was asked; this task began before it."""
    provider_accounts.resume(connection, account_id, now)


async def wake(use: Resources, task_id: str) -> None:
    """A pause or a wait is over: admit who may be."""
    task = await use.db.read(lambda connection: tasks.get(connection, task_id))
    if task is not None:
        await use.db.write(lambda connection: _wake(connection, task.account_id, task_id, use.now()))


def _wake(connection: Connection, account_id: str, task_id: str, now: datetime) -> None:
    admit(connection, account_id, now)
    task = tasks.get(connection, task_id)
    if task is not None and task.status is Status.QUEUED and task.dispatch_after_at > now:
        # Woken early, as by a database whose clock is ahead of ours.
        jobs.enqueue(connection, [(Step.ADMIT, task_id, task.dispatch_after_at)])
    account = provider_accounts.get(connection, account_id)
    if account is not None and account.paused_until_at is not None and account.paused(now):
        # Paused again meanwhile, or woken for something else: whoever wakes last has to know of the end.
        jobs.enqueue(connection, [(Step.ADMIT, task_id, account.paused_until_at)])


def _full(account: Account, in_flight: Counter[str]) -> set[str]:
    """The models that have as many in flight as they may."""
    return {model for model, limit in account.limits.items() if model != IN_ALL and in_flight[model] >= limit}
