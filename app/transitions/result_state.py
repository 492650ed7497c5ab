"""What the record says of a result on its way home: stored, kept aside, left to another machine, or lost."""

from datetime import datetime, timedelta
from functools import partial

from app import ids, jobs
from app.db import Connection
from app.db.engine.commit_hooks import after_commit
from app.db.tables import downloads, evidence, spooled_results, tasks
from app.db.tables.tasks import Task
from app.images.download import Image
from app.jobs import Step
from app.provider.contract import LINK_LIFE
from app.rules.backoff import COLLECT, STORE
from app.rules.task import Failure, MoneySpent, Status
from app.telemetry import metrics
from app.transitions import moves

_LONGEST_LIFE = timedelta(hours=1)  # whatever a link says of itself
_NEAR_ITS_END = timedelta(minutes=1)
_GRACE = timedelta(minutes=1)  # a link may live a little longer than it says; nothing is lost by asking once more
_HOPE = timedelta(hours=1)  # how long whoever does not answer may still come back: the provider, another machine


def store(connection: Connection, task: Task, image: Image, started_at: datetime, now: datetime) -> bool:
    """The store has the bytes of this attempt; whoever kept them aside need not. False: the task has been erased."""
    spooled_results.forget(connection, task.submission_id)
    if _locked(connection, task.id, task.submission_id) is None:
        return tasks.get(connection, task.id) is not None
    moves.store(
        connection,
        task.id,
        now,
        store_key=image.store_key,
        sha256=image.sha256,
        media_type=image.info.media_type,
        bytes=image.bytes,
        width=image.info.width,
        height=image.info.height,
    )
    _note(connection, task, "stored", None, started_at, now)
    margin = (_deadline(connection, task, now) - now) / timedelta(seconds=1)
    after_commit(connection, partial(metrics.deadline_margin.observe, margin))
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
    """Note who has the bytes that the store has not, and leave the next try; True when that is news."""
    if _locked(connection, task.id, task.submission_id) is None:
        return False
    news = instance not in spooled_results.instances(connection, task.submission_id)
    wait = STORE.wait(spooled_results.note(connection, task.submission_id, instance, now, tried=tried))
    jobs.enqueue(connection, [(Step.COLLECT, task.id, now + wait + ids.jitter(wait / 4))])
    if news:
        _note(connection, task, "kept_aside", f"{instance} keeps it: {reason}", started_at, now)
    return news


def leave_to_others(connection: Connection, task_id: str, instance: str, started_at: datetime, now: datetime) -> bool:
    """True when only another machine can still bring the image in; then the next look is left.

    What this machine should have and has not is lost; for a task that was cancelled no machine is waited for for ever.
    """
    task = _locked(connection, task_id)
    if task is None:
        return True
    spool_holders = spooled_results.instances(connection, task.submission_id)
    if instance in spool_holders:
        spooled_results.forget(connection, task.submission_id, instance)
        _note(connection, task, "failed", f"{instance} has no whole copy any more", started_at, now)
    if spool_holders <= {instance} or now <= _deadline(connection, task, now) + _GRACE:
        return False
    if task.cancel_requested_at is not None and now > task.cancel_requested_at + _HOPE:
        spooled_results.forget(connection, task.submission_id)
        return False
    jobs.enqueue(connection, [(Step.COLLECT, task.id, now + STORE.longest)])
    return True


def fail(
    connection: Connection, task_id: str, reason: str, started_at: datetime, now: datetime, *, refused: bool
) -> bool:
    """Note the failed download, and leave the next try, with a fresh link if need be; True when the image is lost."""
    task = _locked(connection, task_id)
    if task is None:
        return False
    _note(connection, task, "failed", reason, started_at, now)
    deadline = _deadline(connection, task, now)
    # A dead link is not the end while the provider has not been asked for another, or somebody has the bytes.
    asked = evidence.answered_since(connection, task.submission_id, deadline)
    kept = spooled_results.instances(connection, task.submission_id)
    # From here on it was asked at each try. While we were away ourselves nobody was.
    tried_at = downloads.first_since(connection, task.id, deadline) or now
    if now > deadline + _GRACE and not kept and (asked or now > tried_at + _HOPE):
        return moves.give_up(connection, task.id, Failure.ASSET_LOST, MoneySpent.YES, reason, now)
    wait = COLLECT.wait(downloads.count(connection, task.id))
    jobs.enqueue(connection, [(Step.COLLECT, task.id, now + wait + ids.jitter(wait / 4))])
    if refused or now > deadline - _NEAR_ITS_END:
        jobs.enqueue(connection, [(Step.RECONCILE, task.id, now)])
    return False


def _locked(connection: Connection, task_id: str, submission_id: str | None = None) -> Task | None:
    """The task as it is now and stays until the transaction ends.

    None when it is not `ready` any more, or when this attempt of it is not the one that counts any more.
    """
    tasks.lock(connection, [task_id])
    task = tasks.get(connection, task_id)
    if task is None or task.status is not Status.READY or submission_id not in {None, task.submission_id}:
        return None
    return task


def _deadline(connection: Connection, task: Task, now: datetime) -> datetime:
    """When the link dies: what it says itself, but never later than an hour, else the contract's ten minutes.

    One that was dead when it came says nothing: our clock may be ahead of the provider's, and the link alive. A fresh
    link that came after that hour has one of its own, from the first try on.
    """
    ready_at = task.ready_at or now
    latest = ready_at + _LONGEST_LIFE
    if now > latest:
        latest = (downloads.first_since(connection, task.id, latest) or now) + _LONGEST_LIFE
    said = task.sample_expires_at
    dies_at = said if said is not None and said > ready_at else ready_at + LINK_LIFE
    return min(dies_at, latest)


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
