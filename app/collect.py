"""Bring a result home while its link lives: download, check, keep, and only then call it stored.

Bytes that the store cannot take lie on this machine's own disk until it can: no link's life bounds that.
"""

import asyncio
from datetime import datetime, timedelta
from typing import IO

import httpx

from app.db import Connection
from app.db.tables import attempts, spooled_results, tasks
from app.db.tables.tasks import Task
from app.errors import FluxhookError, ResultRefused, Unavailable
from app.images.download import Image, check, download
from app.resources import Resources
from app.rules.task import Status
from app.telemetry import logs, metrics, tracing
from app.transitions import result_state

_REST = timedelta(seconds=15)  # after the store failed: hands that wait for it are missed where links die

log = logs.get("collect")


class _Resting(Unavailable):
    """The store failed a moment ago, and is left alone."""


async def collect(use: Resources, task_id: str) -> None:
    """Store the result of a `ready` task, or leave the next try; past the link's life the image is lost."""
    task = await _task(use, task_id)
    if task is None or task.status is not Status.READY:
        return
    logs.note(key_id=task.key_id, submission_id=task.submission_id)
    started_at = use.now()
    try:
        file = await _obtain(use, task, started_at)
        if file is None:
            return
        with file:
            await _bring_home(use, task, file, started_at)
    except (FluxhookError, httpx.HTTPError, OSError) as error:
        await _fail(use, task_id, error, started_at)


async def tend(use: Resources) -> None:
    """Bring in what this machine keeps aside, until the store fails; remove what is not needed any more.

    Every process that works does this now and then: the job may have gone to a machine that has not got the bytes.
    """
    for attempt in await asyncio.to_thread(use.spool.attempts):
        submission = await use.db.read(lambda connection, attempt=attempt: attempts.get(connection, attempt))  # type: ignore[misc]
        if submission is None:
            continue  # of another database, or of a time that a restored one does not know
        task = await _task(use, submission.task_id)
        if task is None or task.status.final or task.submission_id != attempt:
            await _drop(use, attempt)
        elif task.status is Status.READY:
            await collect(use, task.id)
            if attempt in await asyncio.to_thread(use.spool.attempts):
                return


async def _obtain(use: Resources, task: Task, started_at: datetime) -> IO[bytes] | None:
    """The image's bytes: kept here already, or by the link. None leaves the task to the machine that has them."""
    file = await asyncio.to_thread(use.spool.open, task.submission_id)
    if file is not None:
        return file
    if await use.db.read(lambda connection: spooled_results.instances(connection, task.submission_id)):
        instance = await asyncio.to_thread(use.spool.instance, started_at)
        if await use.db.write(
            lambda connection: result_state.leave_to_others(connection, task.id, instance, started_at, use.now())
        ):
            return None
    return await download(use, task.sample_url or "")


async def _bring_home(use: Resources, task: Task, file: IO[bytes], started_at: datetime) -> None:
    image = await check(use, file, task.submission_id)
    try:
        await _put(use, image, file)
    except Unavailable as outage:
        await _keep_aside(use, task, image, file, outage, started_at)
    else:
        if not await use.db.write(
            lambda connection: result_state.store(connection, task, image, started_at, use.now())
        ):
            await use.store.remove(image.store_key)
        await asyncio.to_thread(use.spool.discard, task.submission_id)


async def _put(use: Resources, image: Image, file: IO[bytes]) -> None:
    since = use.now() - _REST
    if await use.db.read(lambda connection: spooled_results.store_failed_since(connection, since)):
        raise _Resting("the image store failed a moment ago")
    with tracing.span("store put", bytes=image.bytes):
        await use.store.put(image.store_key, file)


async def _keep_aside(
    use: Resources, task: Task, image: Image, file: IO[bytes], outage: Unavailable, started_at: datetime
) -> None:
    try:
        instance = await asyncio.to_thread(use.spool.instance, started_at)
        await asyncio.to_thread(use.spool.keep, task.submission_id, file, image.sha256)
    except OSError as error:
        raise Unavailable(f"{outage.detail}; nor can it be kept aside: {error.strerror}") from error
    tried = not isinstance(outage, _Resting)

    def record(connection: Connection) -> bool:
        return result_state.await_store(connection, task, instance, outage.detail, started_at, use.now(), tried=tried)

    if await use.db.write(record):
        metrics.images_kept_aside.inc()
        log.warning("kept_aside", task_id=task.id, instance=instance, reason=outage.detail)


async def _fail(use: Resources, task_id: str, error: Exception, started_at: datetime) -> None:
    reason = error.detail if isinstance(error, FluxhookError) else f"no image came: {type(error).__name__}"
    refused = isinstance(error, ResultRefused)
    if await use.db.write(
        lambda connection: result_state.fail(connection, task_id, reason, started_at, use.now(), refused=refused)
    ):
        metrics.assets_lost.inc()
        log.error("asset_lost", task_id=task_id, reason=reason)


async def _task(use: Resources, task_id: str) -> Task | None:
    return await use.db.read(lambda connection: tasks.get(connection, task_id))


async def _drop(use: Resources, attempt: str) -> None:
    await asyncio.to_thread(use.spool.discard, attempt)
    await use.db.write(lambda connection: spooled_results.forget(connection, attempt))
