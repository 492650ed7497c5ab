"""Erase a task that has ended: its rows at once, its images as soon as the store lets go of them.

What is left tells what it cost, see `record/erased.py`.
"""

from datetime import datetime

from app import jobs
from app.db import Connection
from app.db.tables import erased_tasks, tasks
from app.errors import Conflict, Forbidden, NotFound
from app.jobs import Step
from app.resources import Resources
from app.telemetry import logs

_OWN = 3  # parts of the name of an image that one task has alone: digest, whose it is, and kind

log = logs.get("erase")


def erase(connection: Connection, task_id: str, owner: str | None, now: datetime) -> None:
    """Erase a task of this API key, or of any where `owner` is None; once it is erased, nothing is done.

    Raises NotFound, Forbidden for a task of another key, Conflict for one that has not ended.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None:
        if erased_tasks.is_known(connection, task_id):
            return
        raise NotFound("there is no such task")
    if owner not in {None, task.key_id}:
        raise Forbidden("this needs the API key that posted the task, or one with the scope `*`")
    if not task.status.final:
        raise Conflict(f"the task is {task.status}: cancel it, and erase it once it has ended")
    if erased_tasks.erase(connection, task, now):
        jobs.enqueue(connection, [(Step.ERASE, task_id, now)])


async def remove_images(use: Resources, task_id: str) -> None:
    """Remove what the store has of an erased task. Raises Unavailable while it cannot."""
    for key in await use.db.read(lambda connection: erased_tasks.store_keys(connection, task_id)) or ():
        if await _is_its_own(use, key):
            await use.store.remove(key)
    await use.db.write(lambda connection: erased_tasks.forget_keys(connection, task_id))
    log.info("erased", task_id=task_id)


async def _is_its_own(use: Resources, key: str) -> bool:
    """Whether no other task has this image. Up to 0.2 tasks shared one by its digest; nobody knows of their inputs."""
    if len(key.rpartition("/")[2].split(".")) == _OWN:
        return True
    return key.startswith("results/") and not await use.db.read(
        lambda connection: erased_tasks.is_used(connection, key)
    )
