"""Erase a task that has ended: its rows immediately, its images in a job once the store is available.

A row that records the task's cost remains, see `db/tables/erased_tasks.py`.
"""

from datetime import datetime

from app import jobs
from app.db import Connection
from app.db.tables import erased_tasks, tasks
from app.errors import Conflict, Forbidden, NotFound
from app.jobs import NewJob, Step
from app.resources import Resources
from app.telemetry import logs

_UNSHARED = 3  # parts of the name of an image that belongs to one task: digest, owner, extension

log = logs.get("erase")


def erase(connection: Connection, task_id: str, owner: str | None, now: datetime) -> None:
    """Erase a task, and schedule the removal of its images. Does nothing if it is already erased.

    `owner`: the API key that must have posted the task; None allows any. Raises NotFound, Forbidden for a task of
    another key, and Conflict for a task that has not ended.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None:
        if erased_tasks.is_known(connection, task_id):
            return
        raise NotFound("there is no such task")
    if owner not in {None, task.key_id}:
        raise Forbidden("this requires the API key that posted the task, or a key with the scope `*`")
    if not task.status.final:
        raise Conflict(f"the task is {task.status}: cancel it, and erase it after it has ended")
    if erased_tasks.erase(connection, task, now):
        jobs.enqueue(connection, [NewJob(Step.ERASE, task_id, now)])


async def remove_images(use: Resources, task_id: str) -> None:
    """Remove an erased task's images from the store. Raises StoreUnavailable."""
    for key in await use.db.read(erased_tasks.store_keys, task_id) or ():
        if await _is_unshared(use, key):
            await use.store.remove(key)
    await use.db.write(erased_tasks.clear_store_keys, task_id)
    log.info("erased", task_id=task_id)


async def _is_unshared(use: Resources, key: str) -> bool:
    """Return whether no other task uses this image.

    Up to version 0.2, tasks with the same image shared one key. For such a key, results can be looked up; input images
    cannot, so they stay.
    """
    if len(key.rpartition("/")[2].split(".")) == _UNSHARED:
        return True
    return key.startswith("results/") and not await use.db.read(erased_tasks.is_used, key)
