"""Give free slots to queued tasks: by priority, then in turn between applications, then in the order of arrival.

There is one queue for all accounts. An account that refused every task is probed with one task at a time until its
provider accepts one.

`admit` runs in every transaction that queues a task, frees a slot or ends a pause, so no wakeup can be lost. An
admitted task has a slot and a dispatch job; any other waits for the next call.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from app import jobs
from app.db import Connection
from app.db.queries import admission, queue
from app.db.queries.admission import Candidate
from app.db.queries.attempt_contexts import AttemptContext
from app.db.tables import provider_accounts, slots, task_updates, tasks
from app.db.tables.evidence import Evidence
from app.db.tables.provider_accounts import IN_ALL, Account
from app.db.tables.slots import TakenSlot
from app.jobs import NewJob, Step
from app.resources import Resources
from app.rules.backoff import BLOCKED, BUSY, KEY_REFUSED, UNPAID, Backoff
from app.rules.slots import lower
from app.rules.task import Said, Status
from app.transitions.rooms import Room, openings, room_for

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
_PAUSES = {
    Said.BUSY: provider_accounts.NO_FREE_SLOT,
    Said.UNPAID: provider_accounts.OUT_OF_CREDITS,
    Said.KEY_REFUSED: provider_accounts.KEY_REFUSED,
    Said.BLOCKED: provider_accounts.BLOCKED,
}
# A refusal for one of these reasons may also be about the task alone.
_MAY_BE_THE_TASK = frozenset({provider_accounts.KEY_REFUSED, provider_accounts.BLOCKED})
_Given = tuple[Candidate, Account, int]  # a task, the account that it goes to, and the number of its slot


def admit(connection: Connection, now: datetime, *, overdue_by: timedelta = timedelta()) -> list[str]:
    """Give the free slots of the accounts to the next tasks. Return the ids of the admitted tasks.

    A task goes to the first account that serves its model, is not paused and has a slot for it. `overdue_by`: admit
    only tasks that could have been admitted this long ago.
    """
    due_at = now - overdue_by
    rooms = _rooms(connection, due_at)
    admitted: list[str] = []
    locked: set[str] = set()  # tasks that other transactions have locked
    more = True
    while more and (free := sum(len(room.free) for room in rooms)):
        probed = any(room.account.probes for room in rooms)
        limit = max(free, _PROBE_CANDIDATES if probed else 0) + len(locked)
        candidates = admission.next_tasks(connection, due_at, openings(rooms), limit)
        locked |= _locked(connection, candidates, now)
        given = _give(rooms, [task for task in candidates if task.id not in locked])
        _record(connection, given, now)
        admitted += [task.id for task, _, _ in given]
        # Else the queue has no others. A candidate that was skipped may have hidden one that its application may start.
        more = len(candidates) == limit or 0 < len(given) < len(candidates)
        rooms = [room for room in rooms if room.free]  # the next iteration excludes what has been used up in this one
    return admitted


def _rooms(connection: Connection, now: datetime) -> list[Room]:
    """Lock the accounts. Return those with free slots that are not paused and wait for no probe, in order."""
    accounts = provider_accounts.lock_configured(connection)
    usable = [
        account
        for account in accounts
        if not account.paused(now)
        and not (account.probes and slots.has_probe(connection, account, now - _PROBE_TIMEOUT))
    ]
    if not usable:
        return []
    taken = slots.of_accounts(connection, *(account.id for account in usable))
    rooms = [Room.of(account, taken, now) for account in usable]
    return [room for room in rooms if room.free]


def _give(rooms: Sequence[Room], candidates: Sequence[Candidate]) -> list[_Given]:
    """Choose an account for each of the candidates, in order, as long as there are slots for them.

    First, each account that is probed gets the one of the first tasks that was sent least recently.
    """
    given: list[_Given] = []
    left = list(candidates)
    for room in rooms:
        if room.account.probes:
            possible = [task for task in left[:_PROBE_CANDIDATES] if room.accepts(task)]
            if possible:
                task = min(possible, key=lambda task: task.submitting_at or _NEVER)
                given.append((task, room.account, room.take(task)))
                left.remove(task)
    for task in left:
        first = room_for(task, rooms)
        if first is not None:
            given.append((task, first.account, first.take(task)))
    return given


def _record(connection: Connection, given: Sequence[_Given], now: datetime) -> None:
    """Record who got a slot, and enqueue the jobs that send these tasks."""
    if not given:
        return
    taken = [TakenSlot(account.id, number, task.id, task.key_id, task.model, now) for task, account, number in given]
    slots.take(connection, taken)
    moved = [(task, account) for task, account, _ in given if account.id != task.account_id]
    if moved:
        task_updates.assign(connection, [(task.id, account.id, account.provider) for task, account in moved])
    jobs.enqueue(connection, [NewJob(Step.DISPATCH, task.id, now) for task, _, _ in given])
    probes = [task for task, account, _ in given if account.probes]
    jobs.enqueue(connection, [NewJob(Step.ADMIT, task.id, now + _PROBE_TIMEOUT) for task in probes])


def release_slots(connection: Connection, task_ids: Collection[str], now: datetime, *, with_room: bool = False) -> None:
    """Free the slots of these tasks and admit the next ones, also if an account is known to have room.

    The last step of a transaction: one that has locked the accounts must not wait for another lock, or it could
    deadlock with a transaction that waits for the accounts.
    """
    released = bool(task_ids) and slots.release(connection, task_ids)
    if released or with_room:
        admit(connection, now)


def _locked(connection: Connection, candidates: Sequence[Candidate], now: datetime) -> set[str]:
    """Lock the candidates. Return those that other transactions have locked, and schedule another admission for them.

    They are skipped: the other transaction may cancel or end the task, and would not free a slot that the task gets
    here. To wait for the lock could deadlock.
    """
    ids = {task.id for task in candidates}
    locked = ids - queue.lock_rows(connection, ids) if ids else ids
    jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, now + _RETRY_LOCKED) for task_id in sorted(locked)])
    return locked


def apply_answer(connection: Connection, attempt: AttemptContext, evidence: Evidence) -> bool:
    """Apply the answer to a submit to its account. Return True if more tasks may start now."""
    said, now = evidence.report.said, evidence.received_at
    if said is Said.PENDING:
        return resume(connection, attempt.account_id, now)
    if said in _PAUSES:
        pause(connection, attempt, _PAUSES[said], evidence.report.retry_after, now)
    return False


def pause(connection: Connection, attempt: AttemptContext, reason: str, wait: timedelta | None, now: datetime) -> None:
    """Pause an account after a refusal: for the wait that the provider asked for, else with exponential backoff.

    A refusal during a pause does not count: its request was sent before the pause began. A task that is refused while
    the provider accepts others uses up one of its tries, because the refusal may be about that task alone.
    """
    account = provider_accounts.lock(connection, attempt.account_id)
    if account is None:
        return
    if reason == provider_accounts.NO_FREE_SLOT:
        _lower(connection, account, now)
    if reason in _MAY_BE_THE_TASK and account.refusals == 0:
        task_updates.count_try(connection, attempt.task_id)
    before = account.refusals if account.pause_reason == reason else 0
    refusals = max(1, before + (not account.paused(now)))
    until = now + (wait or BACKOFFS[reason].wait(refusals))
    if account.paused_until_at is None or account.paused_until_at < until:
        provider_accounts.pause(connection, account.id, now, until, reason, refusals)
        jobs.enqueue(connection, [NewJob(Step.ADMIT, attempt.task_id, until)])


def _lower(connection: Connection, account: Account, now: datetime) -> None:
    """Lower the limit of an account to the tasks that it has; the refused one has returned to the queue."""
    in_flight = slots.count_sent(connection, account.id)
    lowered = lower(account.limits[IN_ALL], account.lowered, in_flight, now)
    if lowered is not None:
        provider_accounts.lower(connection, account.id, lowered)


def resume(connection: Connection, account_id: str, now: datetime) -> bool:
    """Reset the count of refusals after the provider accepted a task. Return True if more tasks may start now.

    Does nothing during a pause: the task was sent before the pause began.
    """
    return provider_accounts.resume(connection, account_id, now)


async def readmit(use: Resources, task_id: str) -> None:
    """Run `admit`: a pause of the task's account or a wait of the task is over."""
    task = await use.db.read(tasks.get, task_id)
    if task is not None:
        await use.db.write(_readmit, task_id, use.now())


def _readmit(connection: Connection, task_id: str, now: datetime) -> None:
    admit(connection, now)
    task = tasks.get(connection, task_id)
    if task is not None and task.status is Status.QUEUED and task.dispatch_after_at > now:
        # The job ran early, for example because the database's clock is ahead.
        jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, task.dispatch_after_at)])
    accounts = provider_accounts.list_configured(connection)
    waits = [until for account in accounts if (until := _wait(connection, account, now)) is not None]
    if waits:
        # An account was paused again, or the job ran for another reason: a job must remain for the end of the pause, of
        # the wait for a probe, or for the next slot of a limit that was lowered.
        jobs.enqueue(connection, [NewJob(Step.ADMIT, task_id, min(waits))])


def _wait(connection: Connection, account: Account, now: datetime) -> datetime | None:
    """Return until when an account gets no task, or fewer than it may have later; None if time changes nothing."""
    if account.paused_until_at is not None and account.paused(now):
        return account.paused_until_at
    if account.probes and slots.has_probe(connection, account, now - _PROBE_TIMEOUT):
        return now + _PROBE_TIMEOUT
    return account.next_rise(now)
