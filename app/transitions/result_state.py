"""Record what happened to the result of a ready task: stored, spooled, left to another instance, or lost."""

from datetime import datetime, timedelta
from functools import partial

from app import ids, jobs
from app.db import Connection
from app.db.engine.commit_hooks import after_commit
from app.db.tables import downloads, evidence, spooled_results, tasks
from app.db.tables.downloads import Download
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.images.download import Image
from app.jobs import NewJob, Step
from app.provider.contract import LINK_LIFE
from app.rules.backoff import COLLECT, STORE
from app.rules.task import Failure, MoneySpent, Status
from app.telemetry import metrics
from app.transitions import moves, removals

_MAX_LINK_LIFE = timedelta(hours=1)  # even if the link claims more
_EXPIRES_SOON = timedelta(minutes=1)
_GRACE = timedelta(minutes=1)  # a link may live slightly longer than it claims, and one more try costs nothing
_MAX_OUTAGE = timedelta(hours=1)  # how long to wait for a provider or an instance that does not answer


def store(connection: Connection, task: Task, image: Image, started_at: datetime, now: datetime) -> bool:
    """Record that the image store holds this attempt's image, and forget all spooled copies.

    Returns False if the task has been erased; the removal of the image is then requested. A task that is no longer
    `ready` stays as it is.
    """
    spooled_results.delete_holders(connection, task.attempt_id)
    if not _is_ready(connection, task):
        return not remove_if_erased(connection, task.id, image.store_key, now)
    result = Result(
        task_id=task.id,
        store_key=image.store_key,
        sha256=image.sha256,
        media_type=image.info.media_type,
        bytes=image.bytes,
        width=image.info.width or None,
        height=image.info.height or None,
        stored_at=now,
        unverified_image=image.problem,
        content_credentials=image.has_credentials,
    )
    moves.store(connection, result)
    detail = None if image.problem is None else f"unverified: {image.problem}"
    _record_download(connection, task, "stored", detail, started_at, now)
    if image.problem is not None:
        after_commit(connection, metrics.images_unverified.inc)
    margin = (_deadline(connection, task, now) - now) / timedelta(seconds=1)
    after_commit(connection, partial(metrics.deadline_margin.observe, margin))
    return True


def remove_if_erased(connection: Connection, task_id: str, store_key: str, now: datetime) -> bool:
    """Request the removal of an image and its thumbnail if its task has been erased, and return whether it has."""
    if tasks.exists(connection, task_id):
        return False
    removals.request(connection, [store_key], now)
    return True


def await_store(
    connection: Connection,
    task: Task,
    instance: str,
    reason: str,
    started_at: datetime,
    now: datetime,
    *,
    tried: bool,
) -> bool:
    """Record that `instance` holds the image in its spool, and schedule the next try to store it.

    `tried`: the store was called, rather than skipped by the circuit breaker. Returns True if the instance is a new
    holder.
    """
    if not _is_ready(connection, task):
        return False
    is_new = instance not in spooled_results.instances(connection, task.attempt_id)
    wait = STORE.wait(spooled_results.record_holder(connection, task.attempt_id, instance, now, tried=tried))
    jobs.enqueue(connection, [NewJob(Step.COLLECT, task.id, now + ids.jittered(wait))])
    if is_new:
        _record_download(connection, task, "kept_aside", f"spooled on {instance}: {reason}", started_at, now)
    return is_new


def leave_to_others(connection: Connection, task_id: str, instance: str, started_at: datetime, now: datetime) -> bool:
    """Return whether to leave the image to the other instances that hold it, and schedule the next try if so.

    They alone can store it once its link has expired. If the task's cancellation was requested more than an hour ago,
    they are no longer waited for, and their records are deleted. Returns True if the task is no longer `ready`.

    The caller has found no copy in the spool of `instance`: if one is recorded, it is recorded as lost.
    """
    task = _locked(connection, task_id)
    if task is None:
        return True
    spool_holders = spooled_results.instances(connection, task.attempt_id)
    if instance in spool_holders:
        spooled_results.delete_holders(connection, task.attempt_id, instance)
        _record_download(connection, task, "failed", f"{instance} no longer has a complete copy", started_at, now)
    if spool_holders <= {instance} or now <= _deadline(connection, task, now) + _GRACE:
        return False
    if task.cancel_requested_at is not None and now > task.cancel_requested_at + _MAX_OUTAGE:
        spooled_results.delete_holders(connection, task.attempt_id)
        return False
    jobs.enqueue(connection, [NewJob(Step.COLLECT, task.id, now + STORE.longest)])
    return True


def fail(
    connection: Connection, task_id: str, reason: str, started_at: datetime, now: datetime, *, refused: bool
) -> Status | None:
    """Record a failed download. Fail the task as `asset_lost` if the image is lost.

    Return the task's new status, `ready` or `failed`; None if it was not ready and nothing was recorded.

    An image is lost if all of these hold: its link expired more than a minute ago; since then the provider has given a
    usable answer or the tries span more than an hour; no instance holds a copy. Otherwise the next try is scheduled
    and, if the link was refused, expires within a minute or says that it has expired, also a poll for a fresh link.

    `refused`: the link did not deliver a usable image, so a retry of the same link would not help.
    """
    task = _locked(connection, task_id)
    if task is None:
        return None
    _record_download(connection, task, "failed", reason, started_at, now)
    deadline = _deadline(connection, task, now)
    provider_answered = evidence.answered_since(connection, task.attempt_id, deadline)
    spool_holders = spooled_results.instances(connection, task.attempt_id)
    # Each try after the deadline also polls. Time in which this service was down contains no tries and does not count.
    first_try_at = downloads.first_since(connection, task.id, deadline) or now
    gave_up_waiting = now > first_try_at + _MAX_OUTAGE
    if now > deadline + _GRACE and not spool_holders and (provider_answered or gave_up_waiting):
        moves.give_up(connection, task.id, Failure.ASSET_LOST, MoneySpent.YES, reason, now)
        return Status.FAILED
    wait = COLLECT.wait(downloads.count(connection, task.id))
    jobs.enqueue(connection, [NewJob(Step.COLLECT, task.id, now + ids.jittered(wait))])
    if refused or now > deadline - _EXPIRES_SOON or _says_it_has_expired(task, now):
        jobs.enqueue(connection, [NewJob(Step.RECONCILE, task.id, now)])
    return Status.READY


def _locked(connection: Connection, task_id: str) -> Task | None:
    """Lock the task and return its current row; None if it is no longer `ready`."""
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    return task if task is not None and task.status is Status.READY else None


def _is_ready(connection: Connection, known: Task) -> bool:
    """Lock the task, and return whether it is still `ready`, with the same attempt."""
    tasks.lock(connection, [known.id])
    return tasks.is_at(connection, known.id, Status.READY, known.attempt_id)


def _deadline(connection: Connection, task: Task, now: datetime) -> datetime:
    """Return when the link expires, at most an hour after the task became ready.

    A link expires when it says. A link that says nothing, or that had expired when the task became ready, lives for ten
    minutes, as in the provider's contract: the local clock may be ahead of the provider's.

    After the first hour the task may have a fresh link, so the limit becomes an hour after the first try since then.
    """
    ready_at = task.ready_at or now
    latest = ready_at + _MAX_LINK_LIFE
    if now > latest:
        latest = (downloads.first_since(connection, task.id, latest) or now) + _MAX_LINK_LIFE
    stated = task.sample_expires_at
    expires_at = stated if stated is not None and stated > ready_at else ready_at + LINK_LIFE
    return min(expires_at, latest)


def _says_it_has_expired(task: Task, now: datetime) -> bool:
    return task.sample_expires_at is not None and task.sample_expires_at <= now


def _record_download(
    connection: Connection, task: Task, outcome: str, detail: str | None, started_at: datetime, now: datetime
) -> None:
    downloads.insert(connection, Download(ids.new_id("dl", now), task.id, outcome, detail, started_at, now))
