"""Erase tasks that have ended: their rows immediately, their images in a job once the store is available.

A row that records the task's cost remains, see `db/tables/erased_tasks.py`, and one for the receipt in `erasures`.
"""

from datetime import datetime, timedelta

from app import ids, jobs
from app.db import Connection
from app.db.tables import erased_tasks, erasures, task_tags, tasks
from app.db.tables.erasures import Erasure, ErasureKind
from app.errors import Conflict, NotFound
from app.jobs import NewJob, Step
from app.resources import Resources
from app.telemetry import logs
from app.transitions import moves, removals
from app.transitions.tag_users import tag_users

_BATCH = 50  # tasks of an end user in one transaction
_INSTANT = timedelta(microseconds=1)  # what ids resolve
# The wait for open tasks of an end user, a quarter of the time that has passed.
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=10)

log = logs.get("erase")


def erase(connection: Connection, task_id: str, owner: str | None, now: datetime) -> str | None:
    """Erase a task, and schedule the removal of its images. Return the id of the erasure; None if it is erased already.

    `owner`: the application that the task must belong to; None allows any. Raises NotFound, and Conflict for a task
    that has not ended.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get_owned(connection, task_id, owner)
    if task is None:
        if owner in {None, erased_tasks.owner(connection, task_id)} and erased_tasks.is_known(connection, task_id):
            return None
        raise NotFound("there is no such task")
    if not task.status.final:
        raise Conflict(f"the task is {task.status}: cancel it, and erase it after it has ended")
    erasure = Erasure(ids.new_id("ers", now), task.application_id, ErasureKind.TASK, task_id, now)
    erasures.insert(connection, erasure)
    digests = erased_tasks.erase(connection, task, now, erasure.id)
    erasures.count(connection, erasure, [(task_id, digests)])
    erasures.mark_tasks_erased(connection, erasure.id, now)
    if digests:
        jobs.enqueue(connection, [NewJob(Step.ERASE, task_id, now)])
    else:
        erasures.finish_if_complete(connection, erasure.id, now)
    return erasure.id


def request_user(connection: Connection, application_id: str, user: str, now: datetime) -> tuple[Erasure | None, bool]:
    """Schedule the erasure of all tasks that an end user has in an application until now.

    Return the erasure and whether it is new: the one that is in progress, if there is one, or the latest if the user
    has no tasks; None if the user never had any.
    """
    tag = task_tags.of_user(user)
    all_tagged = tag_users(connection, now)
    known = erasures.latest(connection, application_id, tag)
    is_open = known is not None and known.tasks_erased_at is None
    has_tasks = not all_tagged or task_tags.first(connection, application_id, tag, _before(now), limit=1)
    if is_open or not has_tasks:
        return known, False
    erasure = Erasure(ids.new_id("ers", now), application_id, ErasureKind.USER, tag, now)
    erasures.insert(connection, erasure)
    jobs.enqueue(connection, [NewJob(Step.ERASE, erasure.id, now)])
    return erasure, True


async def run(use: Resources, subject: str) -> None:
    """Run the job ERASE, whose subject is an erased task, the erasure of an end user, or `removals.SUBJECT`."""
    if subject == removals.SUBJECT:
        await removals.run(use)
        return
    await (erase_user if ids.is_id("ers", subject) else remove_images)(use, subject)


async def erase_user(use: Resources, erasure_id: str) -> None:
    """Erase the tasks of an end user that have ended, in batches, and cancel the others.

    While a task is open, the job is repeated. Each batch is a transaction of its own, and a job that died is continued
    by the next one: what is erased is no longer found.
    """
    erasure = await use.db.read(erasures.get, erasure_id)
    if erasure is None or erasure.tasks_erased_at is not None:
        return
    while not await use.db.write(tag_users, use.now()):
        pass  # tasks of earlier versions, in batches
    before, after = _before(erasure.requested_at), ""
    cancelled = False
    while found := await use.db.read(
        task_tags.first, erasure.application_id, erasure.subject, before, limit=_BATCH, after=after
    ):
        for task_id in await use.db.write(_erase_batch, erasure_id, found, use.now()):
            cancelled |= await use.db.write(moves.cancel, task_id, use.now())
        after = found[-1]
    await use.db.write(_end_round, erasure, use.now(), cancelled=cancelled)


def _erase_batch(connection: Connection, erasure_id: str, task_ids: list[str], now: datetime) -> list[str]:
    """Erase those of these tasks that have ended. Return the ids of the others."""
    erasure = erasures.lock(connection, erasure_id)
    if erasure is None:
        return []
    tasks.lock(connection, task_ids)
    items, still_open = [], []
    for task_id in task_ids:
        task = tasks.get(connection, task_id)
        if task is None:  # it was erased meanwhile, with its tags
            continue
        if task.status.final:
            items.append((task_id, erased_tasks.erase(connection, task, now, erasure_id)))
        else:
            still_open.append(task_id)
    erasures.count(connection, erasure, items)
    jobs.enqueue(connection, [NewJob(Step.ERASE, task_id, now) for task_id, digests in items if digests])
    return still_open


def _end_round(connection: Connection, erasure: Erasure, now: datetime, *, cancelled: bool) -> None:
    if task_tags.first(connection, erasure.application_id, erasure.subject, _before(erasure.requested_at), limit=1):
        wait = min(max((now - erasure.requested_at) / 4, _FIRST_WAIT), _LONGEST_WAIT)
        jobs.enqueue(connection, [NewJob(Step.ERASE, erasure.id, now if cancelled else now + wait)])
        return
    erasures.mark_tasks_erased(connection, erasure.id, now)
    erasures.finish_if_complete(connection, erasure.id, now)


def _before(now: datetime) -> str:
    """Return an id above those of all tasks that were created until now."""
    return ids.first_at("task", now + _INSTANT)


async def remove_images(use: Resources, task_id: str) -> None:
    """Remove an erased task's images from the store, once no job adds its thumbnail. Raises StoreUnavailable."""
    if await use.db.read(_is_collected, task_id):
        await use.db.write(jobs.enqueue, [NewJob(Step.ERASE, task_id, use.now() + _FIRST_WAIT)])
        return
    for key in await use.db.read(erased_tasks.store_keys, task_id) or ():
        await removals.remove(use, key)
    await use.db.write(_note_removal, task_id, use.now())
    log.info("erased", task_id=task_id)


def _is_collected(connection: Connection, task_id: str) -> bool:
    """Whether a job runs that may still put files of the task into the store."""
    return any(job.state == "running" for job in jobs.planned(connection, task_id, {Step.COLLECT}))


def _note_removal(connection: Connection, task_id: str, now: datetime) -> None:
    erased_tasks.clear_store_keys(connection, task_id, now)
    erasure_id = erased_tasks.erasure_of(connection, task_id)
    if erasure_id is not None:
        erasures.finish_if_complete(connection, erasure_id, now)
