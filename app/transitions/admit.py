"""Give free slots to queued tasks: by priority, then in turn between API keys, then in the order of arrival.

An account that refused every task is probed with one task at a time until the provider accepts one.

`admit` runs in every transaction that queues a task, frees a slot or ends a pause, so no wakeup can be lost. An
admitted task has a slot and a dispatch job; any other waits for the next call.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from app import jobs
from app.db import Connection
from app.db.queries import queue
from app.db.queries.queue import Candidate
from app.db.tables import provider_accounts, tasks
from app.db.tables.attempts import AttemptContext
from app.db.tables.provider_accounts import IN_ALL, Account, TakenSlot
from app.jobs import NewJob, Step
from app.resources import Resources
from app.rules.backoff import BLOCKED, BUSY, KEY_REFUSED, UNPAID, Backoff
from app.rules.task import Status

_RETRY_LOCKED = timedelta(seconds=1)
_PROBE_TIMEOUT = timedelta(seconds=70)  # a probe without an answer for longer was lost: another one is sent
# Any of the first tasks of the queue may be the probe, so that one task that is always refused cannot be it forever.
_PROBE_CANDIDATES = 10
_NEVER = datetime.min.replace(tzinfo=UTC)
# The pauses of an account, by their reason.
BACKOFFS: Mapping[str, Backoff] = {
    provider_accounts.NO_FREE_SLOT: BUSY,
    provider_accounts.OUT_OF_CREDITS: UNPAID,
    provider_accounts.KEY_REFUSED: KEY_REFUSED,
    provider_accounts.BLOCKED: BLOCKED,
}
# A refusal for one of these reasons may also be about the task alone.
_MAY_BE_THE_TASK = frozenset({provider_accounts.KEY_REFUSED, provider_accounts.BLOCKED})


def admit(connection: Connection, account_id: str, now: datetime, *, overdue_by: timedelta = timedelta()) -> list[str]:
    """Fill the free slots of an account, unless it is paused. Return the ids of the admitted tasks.

    `overdue_by`: admit only tasks that could have been admitted this long ago.
    """
    due_at = now - overdue_by
    account = provider_accounts.lock(connection, account_id)
    if account is None or account.paused(due_at):
        return []
    if account.probes and provider_accounts.has_probe(connection, account, due_at - _PROBE_TIMEOUT):
        return []
    admitted: list[str] = []
    taken = provider_accounts.slots_taken(connection, account_id)
    in_flight = Counter(slot.model for slot in taken)
    free = sorted(set(range(1, account.limits[IN_ALL] + 1)) - {slot.number for slot in taken})
    free = free[:1] if account.probes else free
    locked: set[str] = set()  # tasks that other transactions have locked
    more = True
    while free and more:
        limit = (_PROBE_CANDIDATES if account.probes else len(free)) + len(locked)
        candidates = queue.next_tasks(connection, account_id, due_at, _full(account, in_flight), limit)
        more = len(candidates) == limit  # else the queue has no others: those skipped below have a model without slots
        if account.probes:
            candidates = sorted(candidates, key=lambda task: task.submitting_at or _NEVER)
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
        if account.probes:
            jobs.enqueue(connection, [NewJob(Step.ADMIT, slot.task_id, now + _PROBE_TIMEOUT) for slot in slots])
        admitted += [slot.task_id for slot in slots]
    return admitted


def release_slots(
    connection: Connection, task_ids: Collection[str], now: datetime, *, with_room: Collection[str] = ()
) -> None:
    """Free the slots of these tasks and admit the next ones, also to the accounts that are known to have room.

    The last step of a transaction: one that has locked an account must not wait for another lock, or it could deadlock
    with a transaction that waits for the account.
    """
    released = provider_accounts.release(connection, task_ids) if task_ids else set[str]()
    for account_id in sorted(released | set(with_room)):
        admit(connection, account_id, now)


def _locked(connection: Connection, candidates: Sequence[Candidate], now: datetime) -> set[str]:
    """Lock the candidates. Return those that other transactions have locked, and schedule another admission for them.

    They are skipped: the other transaction may cancel or end the task, and would not free a slot that the task gets
    here. To wait for the lock could deadlock.
    """
    ids = {task.id for task in candidates}
    locked = ids - queue.lock_rows(connection, ids) if ids else ids
    jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, now + _RETRY_LOCKED) for task_id in sorted(locked)])
    return locked


def pause(connection: Connection, attempt: AttemptContext, reason: str, wait: timedelta | None, now: datetime) -> None:
    """Pause an account after a refusal: for the wait that the provider asked for, else with exponential backoff.

    A refusal during a pause does not count: its request was sent before the pause began. A task that is refused while
    the provider accepts others uses up one of its tries, because the refusal may be about that task alone.
    """
    account = provider_accounts.lock(connection, attempt.account_id)
    if account is None:
        return
    if reason in _MAY_BE_THE_TASK and account.refusals == 0:
        tasks.count_try(connection, attempt.task_id)
    before = account.refusals if account.pause_reason == reason else 0
    refusals = max(1, before + (not account.paused(now)))
    until = now + (wait or BACKOFFS[reason].wait(refusals))
    if account.paused_until_at is None or account.paused_until_at < until:
        provider_accounts.pause(connection, account.id, now, until, reason, refusals)
        jobs.enqueue(connection, [NewJob(Step.ADMIT, attempt.task_id, until)])


def resume(connection: Connection, account_id: str, now: datetime) -> bool:
    """Reset the count of refusals after the provider accepted a task. Return True if more tasks may start now.

    Does nothing during a pause: the task was sent before the pause began.
    """
    return provider_accounts.resume(connection, account_id, now)


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
    elif (
        account is not None
        and account.probes
        and provider_accounts.has_probe(connection, account, now - _PROBE_TIMEOUT)
    ):
        # Likewise for the end of the wait for a probe.
        jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, now + _PROBE_TIMEOUT)])


def _full(account: Account, in_flight: Counter[str]) -> set[str]:
    """Return the models that have used up their limit of tasks in flight."""
    return {model for model, limit in account.limits.items() if model != IN_ALL and in_flight[model] >= limit}
