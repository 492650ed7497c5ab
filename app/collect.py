"""Download a result before its link expires, verify it, put it into the image store, and record `stored`.

An image that cannot be verified is stored too, with the reason: it has been paid for.

If the store is unavailable, the bytes wait in this instance's spool. There the link's expiry no longer matters.
"""

import asyncio
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from typing import IO, NamedTuple

import httpx

from app.db import Connection
from app.db.queries import circuit_breaker
from app.db.queries.failing_downloads import failing_downloads
from app.db.tables import attempts, downloads, results, spooled_results, tasks
from app.db.tables.tasks import Task
from app.errors import FluxhookError, ResultRefused, StoreUnavailable, Unavailable
from app.images.download import Downloaded, Image, download, thumbnail_of, verify
from app.jobs import NO_JOB, JobEnd
from app.resources import Connections, Resources
from app.rules.task import Status
from app.telemetry import logs, metrics, tracing
from app.transitions import result_state

log = logs.get("collect")


class _CircuitBreakerOpen(StoreUnavailable):
    """The store has just failed, so the circuit breaker does not let it be called."""


async def collect(use: Resources, task_id: str, end: JobEnd = NO_JOB) -> None:
    """Store the result of a `ready` task, or schedule the next try. Does nothing for a task in another state.

    The task fails as `asset_lost` once the image can no longer be retrieved (see `result_state.fail`). An outage of the
    database is not recorded as a failure of the download or of the store: it is raised.
    """
    found = await use.db.read(_ready, task_id, use.now())
    if found is None:
        return
    task = found.task
    logs.note(key_id=task.key_id, submission_id=task.attempt_id)
    started_at = use.now()
    try:
        downloaded = await _obtain(use, found, started_at)
        if downloaded is None:
            return
        with downloaded.file:
            await _store(use, found, downloaded, started_at, end)
    except (ResultRefused, StoreUnavailable, httpx.HTTPError, OSError) as error:
        await _fail(use, task_id, error, started_at, end)


async def store_spooled(use: Resources) -> None:
    """Store the images in this instance's spool, stopping at the first failure; delete files that no task needs.

    Every worker process calls this regularly, because the job may have run on an instance that does not have the bytes.
    """
    for attempt_id in await asyncio.to_thread(use.spool.attempts):
        attempt = await use.db.read(attempts.get, attempt_id)
        if attempt is None:
            continue  # the file belongs to another database, or is newer than the backup that was restored
        task = await use.db.read(tasks.get, attempt.task_id)
        if task is None or task.status.final or task.attempt_id != attempt_id:
            await _delete_spooled(use, attempt_id)
        elif task.status is Status.READY:
            await collect(use, task.id)
            if attempt_id in await asyncio.to_thread(use.spool.attempts):
                return


def downloads_failing(connection: Connection) -> str | None:
    """Return a sentence about results that cannot be downloaded now, for an operator; None without any."""
    failing = failing_downloads(connection)
    if failing is None:
        return None
    if failing.tasks == 1:
        return f"the result of {failing.task_id} cannot be downloaded yet: {failing.reason}"
    return f"{failing.tasks} results cannot be downloaded yet, the latest of {failing.task_id}: {failing.reason}"


class _Ready(NamedTuple):
    """A task that is ready, and what is known of the places for its image."""

    task: Task
    is_spooled: bool  # by any instance
    circuit_breaker_is_open: bool  # the store must not be called now


def _ready(connection: Connection, task_id: str, now: datetime) -> _Ready | None:
    """Return a task that is ready; None in another state."""
    task = tasks.get(connection, task_id)
    if task is None or task.status is not Status.READY:
        return None
    is_spooled = bool(spooled_results.instances(connection, task.attempt_id))
    return _Ready(task, is_spooled, circuit_breaker.is_open(connection, now))


async def _obtain(use: Resources, found: _Ready, started_at: datetime) -> Downloaded | None:
    """Return the image's bytes, from the spool or by the link; None if another instance must store them."""
    task = found.task
    file = await asyncio.to_thread(use.spool.open, task.attempt_id)
    if file is not None:
        return Downloaded(file, whole=True, spooled=True)  # only what was accepted is spooled
    if found.is_spooled:
        instance = await asyncio.to_thread(use.spool.instance, started_at)
        if await use.db.write(result_state.leave_to_others, task.id, instance, started_at, use.now()):
            return None
    return await download(use, task.sample_url or "")


async def _store(use: Resources, found: _Ready, downloaded: Downloaded, started_at: datetime, end: JobEnd) -> None:
    """Verify the image, put it into the store or into the spool, and record which."""
    task, file = found.task, downloaded.file
    refused = set() if downloaded.whole else await use.db.read(_refusals, task.id)
    image = await verify(use, downloaded, task.attempt_id, refused)
    try:
        if found.circuit_breaker_is_open:
            raise _CircuitBreakerOpen("the image store has just failed")
        await _put(use, image, file)
    except StoreUnavailable as outage:
        await _spool(use, task, image, file, outage, started_at, end)
        return
    try:
        is_known = await use.db.write(result_state.store, task, image, started_at, use.now())
    except Unavailable:
        # Only this process knows that the image is stored: the next try must not need a link that may have expired.
        with suppress(OSError):
            await asyncio.to_thread(use.spool.put, task.attempt_id, file, image.sha256)
        raise
    if is_known and image.problem is not None:
        log.warning("unverified_image", task_id=task.id, reason=image.problem)
    if downloaded.spooled:
        await asyncio.to_thread(use.spool.delete, task.attempt_id)
    if is_known:
        await _add_thumbnail(use, task.id, image, file, end)


def _refusals(connection: Connection, task_id: str) -> set[str]:
    return {download.detail for download in downloads.of_task(connection, task_id) if download.detail is not None}


async def _put(use: Resources, image: Image, file: IO[bytes]) -> None:
    with tracing.span("store put", bytes=image.bytes):
        try:
            await use.store.put(image.store_key, file)
        except StoreUnavailable:
            raise
        except Exception as error:
            # Whatever else a put raises must not lose the image either: it is spooled.
            raise StoreUnavailable(f"the image store failed: {type(error).__name__}") from error


async def _add_thumbnail(use: Resources, task_id: str, image: Image, file: IO[bytes], end: JobEnd) -> None:
    """Store the thumbnail beside the image. Without one, the pages make it from the image each time.

    The webhook of the task does not wait for it. An erasure waits for the end of this job; if the job has lost its
    lease meanwhile, its end requests that the thumbnail is removed.
    """
    small = await thumbnail_of(use, image, file)
    if small is None:
        return
    with suppress(StoreUnavailable):
        await use.store.put(results.thumbnail_key(image.store_key), BytesIO(small))
        await use.db.write(end.after(result_state.remove_if_erased), task_id, image.store_key, use.now())


async def _spool(
    use: Resources,
    task: Task,
    image: Image,
    file: IO[bytes],
    outage: StoreUnavailable,
    started_at: datetime,
    end: JobEnd,
) -> None:
    try:
        instance = await asyncio.to_thread(use.spool.instance, started_at)
        await asyncio.to_thread(use.spool.put, task.attempt_id, file, image.sha256)
    except OSError as error:
        raise StoreUnavailable(f"{outage.detail}; the spool cannot be written either: {error.strerror}") from error
    tried = not isinstance(outage, _CircuitBreakerOpen)

    def record(connection: Connection) -> bool:
        return result_state.await_store(connection, task, instance, outage.detail, started_at, use.now(), tried=tried)

    if await use.db.write(end.after(record)):
        metrics.results_spooled.inc()
        log.warning("kept_aside", task_id=task.id, instance=instance, reason=outage.detail)


async def _fail(use: Resources, task_id: str, error: Exception, started_at: datetime, end: JobEnd) -> None:
    reason = error.detail if isinstance(error, FluxhookError) else f"the download failed: {type(error).__name__}"
    refused = isinstance(error, ResultRefused)
    failed = end.after(result_state.fail)
    status = await use.db.write(failed, task_id, reason, started_at, use.now(), refused=refused)
    if status is None:
        return
    metrics.downloads_failed.labels(_cause(error)).inc()
    log.warning("download_failed", task_id=task_id, reason=reason)
    if status is Status.FAILED:
        metrics.assets_lost.inc()
        log.error("asset_lost", task_id=task_id, reason=reason)


def _cause(error: Exception) -> str:
    """Return the label of the metric: an answer or link that was refused, the network, or this instance itself."""
    if isinstance(error, ResultRefused):
        return "refused"
    return "network" if isinstance(error, httpx.HTTPError | TimeoutError) else "local"


async def _delete_spooled(use: Connections, attempt_id: str) -> None:
    await asyncio.to_thread(use.spool.delete, attempt_id)
    await use.db.write(spooled_results.delete_holders, attempt_id)
