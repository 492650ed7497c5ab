"""Delete files whose retention has ended from the store, in a job. The request is stored, so none is forgotten."""

import asyncio
from collections.abc import Collection
from datetime import datetime

from app import jobs
from app.db import Connection
from app.db.tables import erased_tasks, removals
from app.db.tables.results import thumbnail_key
from app.jobs import NewJob, Step
from app.resources import Connections, Resources
from app.telemetry import logs

SUBJECT = "removals"  # of the job ERASE that deletes these files
_BATCH = 50  # files at once
_BATCHES = 20  # in one job; erasures, which share its lane, come in between
_UNSHARED = 3  # parts of the name of an image that belongs to one task: digest, owner, extension

log = logs.get("removals")


def request(connection: Connection, store_keys: Collection[str], now: datetime) -> None:
    """Request that these files are deleted, in the transaction after which no row shows them."""
    if store_keys:
        removals.put(connection, store_keys, now)
        jobs.enqueue(connection, [NewJob(Step.ERASE, SUBJECT, now)])


async def run(use: Resources) -> None:
    """Delete the requested files. Raises StoreUnavailable; what was not deleted stays requested."""
    for _ in range(_BATCHES):
        keys = await use.db.read(removals.first, _BATCH)
        if not keys:
            return
        await asyncio.gather(*(remove(use, key) for key in keys))
        await use.db.write(removals.remove, keys)
        log.info("files_removed", files=len(keys))
    await use.db.write(jobs.enqueue, [NewJob(Step.ERASE, SUBJECT, use.now())])


async def remove(use: Connections, key: str) -> None:
    """Remove an image from the store, and the thumbnail of a result, unless another task uses it."""
    if not await _is_unshared(use, key):
        return
    await use.store.remove(key)
    if key.startswith("results/"):
        await use.store.remove(thumbnail_key(key))


async def _is_unshared(use: Connections, key: str) -> bool:
    """Return whether no other task uses this image.

    Up to version 0.2, tasks with the same image shared one key. For such a key, results can be looked up; input images
    cannot, so they stay.
    """
    if len(key.rpartition("/")[2].split(".")) == _UNSHARED:
        return True
    return key.startswith("results/") and not await use.db.read(erased_tasks.is_used, key)
