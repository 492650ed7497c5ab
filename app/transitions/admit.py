"""Give free slots to queued tasks: by priority, then in turn between API keys, then in the order of arrival.

`admit` runs in every transaction that queues a task, frees a slot or ends a pause, so no wakeup can be lost. An
admitted task has a slot and a dispatch job; any other waits for the next call.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from app import jobs
from app.db import Connection
from app.db.queries import queue
from app.db.queries.queue import Candidate
from app.db.tables import provider_accounts, tasks
from app.db.tables.attempts import AttemptContext
from app.db.tables.provider_accounts import IN_ALL, Account, TakenSlot
from app.jobs import NewJob, Step
from app.resources import Resources
from app.rules.backoff import BUSY, UNPAID
from app.rules.task import Status

_RETRY_LOCKED = timedelta(seconds=1)


def admit(connection: Connection, account_id: str, now: datetime) -> list[str]:
    """Fill the free slots of an account, unless it is paused. Return the ids of the admitted tasks."""
    account = provider_accounts.lock(connection, account_id)
    if account is None or account.paused(now):
        return []
    admitted: list[str] = []
    taken = provider_accounts.slots_taken(connection, account_id)
    in_flight = Counter(slot.model for slot in taken)
    free = sorted(set(range(1, account.limits[IN_ALL] + 1)) - {slot.number for slot in taken})
    locked: set[str] = set()  # tasks that other transactions have locked
    more = True
    while free and more:
        limit = len(free) + len(locked)
        candidates = queue.next_tasks(connection, account_id, now, _full(account, in_flight), limit)
        more = len(candidates) == limit  # else the queue has no others: those skipped below have a model without slots
        locked |= _locked(connection, candidates, now)
        slots: list[TakenSlot] = []
        for task in candidates:
            if not free or task.id in locked or task.model in _full(account, in_flight):
                continue  # the next iteration excludes a model whose slots were used up in this one
            in_flight[task.model] += 1
            slots.append(TakenSlot(account_id, free.pop(0), task.id, task.key_id, task.model, now))
        if slots:
            provider_accounts.take(connection, slots)
        jobs.enqueue(connection, [NewJob(Step.DISPATCH, slot.task_id, now) for slot in slots])
        admitted += [slot.task_id for slot in slots]
    return admitted


def release_slots(connection: Connection, task_ids: Collection[str], now: datetime) -> None:
    """Free the slots of these tasks and admit the next ones.

    The last step of a transaction: one that has locked an account must not wait for another lock, or it could deadlock
    with a transaction that waits for the account.
    """
    if not task_ids:
        return
    for account_id in sorted(provider_accounts.release(connection, task_ids)):
        admit(connection, account_id, now)


def _locked(connection: Connection, candidates: Sequence[Candidate], now: datetime) -> set[str]:
    """Return the candidates that other transactions have locked, and schedule another look at them. Lock the others.

    A transaction that cancels or ends a waiting task would not free a slot that is given to it here. Waiting for its
    lock could deadlock.
    """
    ids = {task.id for task in candidates}
    locked = ids - queue.lock_rows(connection, ids) if ids else ids
    jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, now + _RETRY_LOCKED) for task_id in sorted(locked)])
    return locked


def pause(connection: Connection, attempt: AttemptContext, reason: str, wait: timedelta | None, now: datetime) -> None:
    """Pause an account after a refusal: for the wait that the provider asked for, else with exponential backoff.

    A refusal during a pause does not count: its request was sent before the pause began.
    """
    account = provider_accounts.lock(connection, attempt.account_id)
    if account is None:
        return
    backoff = UNPAID if reason == provider_accounts.OUT_OF_CREDITS else BUSY
    refusals = max(1, account.refusals + (not account.paused(now)))
    until = now + (wait or backoff.wait(refusals))
    if account.paused_until_at is None or account.paused_until_at < until:
        provider_accounts.pause(connection, account.id, now, until, reason, refusals)
        jobs.enqueue(connection, [NewJob(Step.ADMIT, attempt.task_id, until)])


def resume(connection: Connection, account_id: str, now: datetime) -> None:
    """Reset the count of refusals after the provider accepted a task.

    Does nothing during a pause: the task was sent before the pause began.
    """
    provider_accounts.resume(connection, account_id, now)


async def readmit(use: Resources, task_id: str) -> None:
    """Run `admit` for the task's account: a pause of the account or a wait of the task is over."""
    task = await use.db.read(tasks.get, task_id)
    if task is not None:
        await use.db.write(_readmit, task.account_id, task_id, use.now())


def _readmit(connection: Connection, account_id: str, task_id: str, now: datetime) -> None:
    admit(connection, account_id, now)
    task = tasks.get(connection, task_id)
    if task is not None and task.status is Status.QUEUED and task.dispatch_after_at > now:
        # The job ran early, for example because the database's clock is ahead.
        jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, task.dispatch_after_at)])
    account = provider_accounts.get(connection, account_id)
    if account is not None and account.paused_until_at is not None and account.paused(now):
        # The account was paused again, or the job ran for another reason: a job must remain for the end of the pause.
        jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, account.paused_until_at)])


def _full(account: Account, in_flight: Counter[str]) -> set[str]:
    """Return the models that have used up their limit of tasks in flight."""
    return {model for model, limit in account.limits.items() if model != IN_ALL and in_flight[model] >= limit}
