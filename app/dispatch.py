"""Submit a task to the provider: record `submitting`, send the request once, and record the answer.

Once `submitting` is recorded, nothing is sent again for that attempt; only evidence changes the task. If the database
does not confirm the record, nothing is sent at all: the attempt is withdrawn.
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from tempfile import SpooledTemporaryFile
from typing import IO

from app import ids, jobs
from app.catalog import Model
from app.db import Connection
from app.db.engine.database import write_until_available
from app.db.queries import newest_tasks, queue
from app.db.tables import attempts, tasks
from app.db.tables.attempts import NewAttempt
from app.db.tables.evidence import Evidence
from app.db.tables.tasks import Task
from app.errors import DiskUnavailable, ProviderUnavailable, Unavailable
from app.jobs import NO_JOB, JobEnd, NewJob, Step
from app.provider import Account, Provider, SubmitRequest, observed
from app.resources import Connections, Policy, Resources
from app.rules.request import StoredImage
from app.rules.task import Failure, Outcome, Status, Witness
from app.security.keyring import CallbackProof
from app.settle import settle
from app.store import Missing
from app.telemetry import logs
from app.transitions import moves
from app.transitions.changes import evidence_of

_IN_MEMORY = 256 * 1024  # bytes up to which an image stays in memory

_FIRST_POLL = timedelta(seconds=1)
# A callback is overdue after three times the median time of the model's latest 20 tasks; without any, after twice the
# usual time in its row.
_SAMPLE, _OVERDUE_FACTOR, _USUAL_FACTOR = 20, 3, 2
_MIN_OVERDUE, _MAX_OVERDUE = timedelta(seconds=5), timedelta(seconds=60)


log = logs.get("dispatch")


async def dispatch(use: Resources, task_id: str, end: JobEnd = NO_JOB) -> None:
    """Submit a queued task. Does nothing for a task in another state: it was dispatched before, or has ended."""
    task = await use.db.read(tasks.get, task_id)
    if task is None or task.status is not Status.QUEUED:
        return
    logs.note(key_id=task.key_id)
    account = use.accounts.get(task.account_id)
    if account is None:
        await use.db.write(_hand_over, use, task)
        return
    if account.provider is None:
        raise ProviderUnavailable("no provider key is configured")
    if task.deadline_at is not None and task.deadline_at <= use.now():
        await _expire(use, task_id, Failure.DEADLINE_EXCEEDED, moves.TOO_LATE)
        return
    await use.disk.require()  # what is paid for must find room
    async with AsyncExitStack() as stack:
        try:
            images = {image.field: await _read_input(use, image, stack) for image in task.request.images}
        except Missing:
            await use.store.check()  # raises if the whole store is away: that is an outage, not a loss
            await _expire(use, task_id, Failure.ASSET_LOST, "an input image is no longer in the store")
            return
        except OSError as error:
            raise DiskUnavailable(f"an input image cannot be copied to the local disk: {error.strerror}") from error
        await _submit(use, account, account.provider, task, _Way.of(use, task), images, end)


async def _expire(use: Resources, task_id: str, failure: Failure, detail: str) -> None:
    await use.db.write(moves.expire, [task_id], failure, detail, use.now())


@dataclass(frozen=True, slots=True)
class _Way:
    """How a task is sent, and how its outcome is learnt."""

    model: Model
    callback_requested: bool  # False: the provider is polled from the start

    @classmethod
    def of(cls, use: Policy, task: Task) -> "_Way":
        model = use.catalog.of_task(task.model, task.request)
        return cls(model, callback_requested=use.public_url is not None and model.webhook)


async def _submit(
    use: Resources,
    account: Account,
    provider: Provider,
    task: Task,
    way: _Way,
    images: dict[str, IO[bytes]],
    end: JobEnd,
) -> None:
    sender = ids.new_id("snd", use.now())
    try:
        started = await use.db.write(_begin, use, task, way, account, sender)
    except Unavailable:
        # The commit may have succeeded although its answer was lost. Only this process knows that nothing was sent.
        if await write_until_available(use.db, _withdraw, use, task.id, sender):
            log.warning("attempt_withdrawn", task_id=task.id)
        raise
    if started is None:
        return
    attempt_id, signing_key_id = started
    proof = use.keys.callback_proof(attempt_id, signing_key_id)
    logs.note(submission_id=attempt_id)
    answer = await observed("submit", provider.submit(_request(use, task, way, attempt_id, proof, images)))
    evidence = evidence_of(attempt_id, Witness.SUBMIT, answer, proof, use.now())
    # Only this process knows the answer, so it waits until the database is available.
    await write_until_available(use.db, end.after(_record_answer), use, task, way, evidence)


def _hand_over(connection: Connection, use: Policy, task: Task) -> None:
    """Free the slot of a task in an account that is no longer configured: another account gets the task.

    Raises ProviderUnavailable if other processes have the account, which can send the task.
    """
    slot = queue.slot_of(connection, task.id)
    if slot is not None and slot.configured:
        raise ProviderUnavailable("the account of the task is configured in other processes only")
    moves.hand_over(connection, task.id, task.account_id, use.now())


def _withdraw(connection: Connection, use: Policy, task_id: str, sender: str) -> bool:
    return moves.withdraw(connection, task_id, sender, use.now())


def _record_answer(connection: Connection, use: Policy, task: Task, way: _Way, evidence: Evidence) -> None:
    poll_after = _time_until_poll(connection, task, way)
    settle(connection, [evidence], poll_after=poll_after, link_lives=use.catalog.link_lives)
    moves.cancel_if_requested(connection, task.id, evidence.received_at)


def _time_until_poll(connection: Connection, task: Task, way: _Way) -> timedelta:
    """Return how long to wait before the first poll: until a callback is overdue, if one was requested."""
    if not way.callback_requested:
        return _FIRST_POLL
    durations = sorted(newest_tasks.latest_durations(connection, task.model, _SAMPLE))
    if durations:
        wait = _OVERDUE_FACTOR * durations[len(durations) // 2]
    else:
        wait = _USUAL_FACTOR * timedelta(seconds=way.model.usual_s)
    return max(_MIN_OVERDUE, min(wait, _MAX_OVERDUE))


def _begin(
    connection: Connection, use: Policy, task: Task, way: _Way, account: Account, sender: str
) -> tuple[str, str] | None:
    """Move the task to `submitting` with an attempt that was never sent. Return the attempt's id and signing key id.

    Returns None if the task is no longer queued or has no slot of the account. The same transaction leaves the job for
    a lost answer, so a crash after the commit does not lose the task.
    """
    now, spec = use.now(), account.spec
    last = attempts.of_task(connection, task.id)[-1]
    reusable = last.outcome is Outcome.PLANNED and last.signing_key_id in use.keys
    attempt_id = last.id if reusable else ids.new_id("sub", now)
    if not moves.begin(connection, task.id, task.account_id, attempt_id, now):
        return None
    if not reusable:
        attempt = NewAttempt(
            id=attempt_id,
            task_id=task.id,
            number=last.number + 1,
            provider=spec.name,
            signing_key_id=use.keys.newest,
            planned_at=now,
        )
        attempts.plan(connection, attempt)
    attempts.mark_sent(
        connection,
        attempt_id,
        now,
        provider=spec.name,
        account_id=task.account_id,
        callback_requested=way.callback_requested,
        sender=sender,
    )
    jobs.enqueue(connection, [NewJob(Step.RECONCILE, task.id, now + spec.answer_window)])
    return attempt_id, last.signing_key_id if reusable else use.keys.newest


async def _read_input(use: Connections, image: StoredImage, stack: AsyncExitStack) -> IO[bytes]:
    """Copy an input image to a temporary file, so that a failing store cannot interrupt the request to the provider."""
    file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY, "w+b", dir=str(use.scratch))  # noqa: SIM115 - `stack` closes it
    stack.push_async_callback(asyncio.to_thread, file.close)
    async for piece in use.store.read(image.store_key, 0, image.bytes):
        await asyncio.to_thread(file.write, piece)
    if file.tell() != image.bytes:
        raise Missing(image.store_key)  # the stored object is truncated: do not pay for a broken input
    return file


def _request(
    use: Policy, task: Task, way: _Way, attempt_id: str, proof: CallbackProof, images: dict[str, IO[bytes]]
) -> SubmitRequest:
    given = {name: value for name, value in task.request.parameters.items() if value is not None}
    params = given if images else {**way.model.without_images, **given}
    return SubmitRequest(
        path=way.model.path,
        params=params,
        images=images,
        webhook_url=f"{use.public_url}/callbacks/{attempt_id}/{proof.token}" if way.callback_requested else None,
        webhook_secret=proof.secret if way.callback_requested else None,
    )
