"""Bring a result home while its link lives: download, check, keep, and only then call it stored."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import IO

import httpx

from app import egress, ids, images, jobs, logs, metrics, moves, tracing
from app.errors import FluxhookError, ResultRefused
from app.images import ImageInfo, NotAnImage
from app.jobs import Step
from app.provider.contract import LINK_LIFE
from app.record import Connection, downloads, evidence, tasks
from app.record.signals import after_commit
from app.record.tasks import Task
from app.resources import Resources
from app.retry import COLLECT
from app.store import sha256_of
from app.task import Failure, MoneySpent, Status

# The provider makes images of about one megapixel; these bounds are far above them and far below our memory.
_MAX_BYTES = 64 * 1024 * 1024
_MAX_PIXELS = 50_000_000
_PATIENCE = timedelta(minutes=2)  # with one download: a link that drips leaves time to try again
_LONGEST_LIFE = timedelta(hours=1)  # whatever a link says of itself
_NEAR_ITS_END = timedelta(minutes=1)
_GRACE = timedelta(minutes=1)  # a link may live a little longer than it says; nothing is lost by asking once more
_HOPE = timedelta(hours=1)  # how long a provider that does not answer may still come back with a fresh link

log = logs.get("collect")


@dataclass(frozen=True, slots=True)
class _Kept:
    store_key: str
    sha256: str
    bytes: int
    info: ImageInfo


async def collect(use: Resources, task_id: str) -> None:
    """Store the result of a `ready` task, or leave the next try; past the link's life the image is lost."""
    task = await use.db.read(lambda connection: tasks.get(connection, task_id))
    if task is None or task.status is not Status.READY:
        return
    logs.note(key_id=task.key_id, submission_id=task.submission_id)
    started_at = use.now()
    try:
        kept = await _fetch(use, task)
    except (FluxhookError, httpx.HTTPError, OSError) as error:
        await _fail(use, task_id, started_at, error)
    else:
        await use.db.write(lambda connection: _store(connection, use, task, started_at, kept))


async def _fetch(use: Resources, task: Task) -> _Kept:
    url = task.sample_url or ""
    if not egress.may_hold_result(url, hosts=use.result_hosts, provider_origin=use.provider_origin):
        raise ResultRefused("the link names a host that results may not come from: see FLUXHOOK_RESULT_HOSTS")
    with TemporaryFile(dir=use.scratch) as file:
        await _download(use, url, file)
        info = await asyncio.to_thread(_check, file)
        size, sha256 = file.seek(0, 2), await asyncio.to_thread(sha256_of, file)
        key = f"results/{sha256[:2]}/{sha256}.{images.EXTENSIONS[info.media_type]}"
        with tracing.span("store put", bytes=size):
            await use.store.put(key, file)
    return _Kept(key, sha256, size, info)


async def _download(use: Resources, url: str, file: IO[bytes]) -> None:
    async with asyncio.timeout(_PATIENCE.total_seconds()), use.results.stream("GET", url) as response:
        if response.status_code != HTTPStatus.OK:
            raise ResultRefused(f"the link answered with HTTP {response.status_code}")
        async for piece in response.aiter_raw():
            file.write(piece)
            if file.tell() > _MAX_BYTES:
                raise ResultRefused(f"the result is larger than {_MAX_BYTES // 1024**2} MB")


def _check(file: IO[bytes]) -> ImageInfo:
    try:
        return images.decode(file, max_pixels=_MAX_PIXELS)
    except NotAnImage as error:
        raise ResultRefused(f"the result cannot be kept: {error}") from error


def _store(connection: Connection, use: Resources, task: Task, started_at: datetime, kept: _Kept) -> None:
    now = use.now()
    stored = moves.store(
        connection,
        task.id,
        now,
        store_key=kept.store_key,
        sha256=kept.sha256,
        media_type=kept.info.media_type,
        bytes=kept.bytes,
        width=kept.info.width,
        height=kept.info.height,
    )
    if stored:
        _note(connection, task, "stored", None, started_at, now)
        margin = (_deadline(task, now) - now) / timedelta(seconds=1)
        after_commit(connection, partial(metrics.deadline_margin.observe, margin))


async def _fail(use: Resources, task_id: str, started_at: datetime, error: Exception) -> None:
    reason = error.detail if isinstance(error, FluxhookError) else f"no image came: {type(error).__name__}"
    refused = isinstance(error, ResultRefused)
    if await use.db.write(lambda connection: _lost(connection, use, task_id, started_at, reason, refused=refused)):
        metrics.assets_lost.inc()
        log.error("asset_lost", task_id=task_id, reason=reason)


def _lost(
    connection: Connection, use: Resources, task_id: str, started_at: datetime, reason: str, *, refused: bool
) -> bool:
    """Note the failed download. False while there is hope: then the next try is left, with a fresh link if need be."""
    now = use.now()
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None or task.status is not Status.READY:
        return False
    _note(connection, task, "failed", reason, started_at, now)
    deadline = _deadline(task, now)
    # A dead link is not the end while the provider has not been asked for another.
    asked = evidence.answered_since(connection, task.submission_id, deadline)
    if now > deadline + _GRACE and (asked or now > deadline + _HOPE):
        return moves.give_up(connection, task.id, Failure.ASSET_LOST, MoneySpent.YES, reason, now)
    wait = COLLECT.wait(downloads.count(connection, task.id))
    jobs.enqueue(connection, [(Step.COLLECT, task.id, now + wait + ids.jitter(wait / 4))])
    if refused or now > deadline - _NEAR_ITS_END:
        jobs.enqueue(connection, [(Step.RECONCILE, task.id, now)])
    return False


def _deadline(task: Task, now: datetime) -> datetime:
    """When the link dies: what it says itself, but never later than an hour, else the contract's ten minutes."""
    ready_at = task.ready_at or now
    return min(task.sample_expires_at or ready_at + LINK_LIFE, ready_at + _LONGEST_LIFE)


def _note(
    connection: Connection, task: Task, outcome: str, detail: str | None, started_at: datetime, now: datetime
) -> None:
    downloads.insert(
        connection,
        id=ids.new_id("dl", now),
        task_id=task.id,
        outcome=outcome,
        detail=detail,
        started_at=started_at,
        ended_at=now,
    )
