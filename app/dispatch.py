"""Ask the provider: record that bytes may leave, send them once, and keep what it answered.

After `submitting` is recorded nothing is ever sent again for that attempt; only evidence decides.
"""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from tempfile import SpooledTemporaryFile
from typing import IO

from app import ids, jobs
from app.db import Connection
from app.db.engine.database import write_until_available
from app.db.tables import attempts, tasks
from app.db.tables.tasks import Task
from app.errors import Unavailable
from app.jobs import Step
from app.provider import Provider, ProviderSpec, SubmitRequest, observed
from app.resources import Resources
from app.rules.task import Failure, Outcome, Status, Witness
from app.security.keyring import CallbackProof
from app.settle import answered, settle
from app.store import Missing
from app.telemetry import logs
from app.transitions import moves
from app.transitions.changes import Evidence

_MARGIN = timedelta(seconds=5)  # between the submit's own deadline and the first look at a lost answer

_IN_MEMORY = 256 * 1024  # bytes of an image that is not worth a file

_FIRST_POLL = timedelta(seconds=1)
# A callback is overdue after three times the median of the latest tasks; before there are any, after 20 seconds.
_LATELY, _USUAL, _OVERDUE_FACTOR = 20, timedelta(seconds=20) / 3, 3
_SOONEST_OVERDUE, _LATEST_OVERDUE = timedelta(seconds=5), timedelta(seconds=60)


async def dispatch(use: Resources, task_id: str) -> None:
    """Submit a queued task. One in any other state was dispatched before, or needs it no more."""
    task = await use.db.read(lambda connection: tasks.get(connection, task_id))
    if task is None or task.status is not Status.QUEUED:
        return
    logs.note(key_id=task.key_id)
    if use.provider is None:
        raise Unavailable("no provider key is configured")
    if task.deadline_at is not None and task.deadline_at <= use.now():
        await _expire(use, task_id, Failure.DEADLINE_EXCEEDED, moves.TOO_LATE)
        return
    async with AsyncExitStack() as stack:
        try:
            images = {image["field"]: await _fetch(use, image, stack) for image in task.request["images"]}
        except Missing:
            await use.store.check()  # a store that is not there itself has lost nothing: that is an outage
            await _expire(use, task_id, Failure.ASSET_LOST, "an image of the request is not in the store any more")
            return
        await _ask(use, use.provider, task, images)


async def _expire(use: Resources, task_id: str, failure: Failure, detail: str) -> None:
    await use.db.write(lambda connection: moves.expire(connection, [task_id], failure, detail, use.now()))


async def _ask(use: Resources, provider: Provider, task: Task, images: dict[str, IO[bytes]]) -> None:
    begun = await use.db.write(lambda connection: _begin(connection, use, task, provider.spec))
    if begun is None:
        return
    submission_id, signing_key_id = begun
    proof = use.keys.callback_proof(submission_id, signing_key_id)
    logs.note(submission_id=submission_id)
    answer = await observed("submit", provider.submit(_order(use, task, submission_id, proof, images)))
    given = answered(submission_id, Witness.SUBMIT, answer, proof, use.now())
    # The only one who knows is this process: a database that is away just now is waited for.
    await write_until_available(use.db, lambda connection: _keep(connection, use, task, given))


def _keep(connection: Connection, use: Resources, task: Task, given: Evidence) -> None:
    settle(connection, [given], look_after=_patience(connection, use, task))
    moves.cancel_if_requested(connection, task.id, given.received_at)


def _patience(connection: Connection, use: Resources, task: Task) -> timedelta:
    """How long an accepted task may be silent: a multiple of what its model took lately; at once without callbacks."""
    if use.public_url is None:
        return _FIRST_POLL
    lately = sorted(tasks.lately(connection, task.model, _LATELY))
    usual = lately[len(lately) // 2] if lately else _USUAL
    return max(_SOONEST_OVERDUE, min(_OVERDUE_FACTOR * usual, _LATEST_OVERDUE))


def _begin(connection: Connection, use: Resources, task: Task, spec: ProviderSpec) -> tuple[str, str] | None:
    """Move the task to `submitting` with an attempt that was never sent; give its id and ring key.

    The job that will look at a lost answer is left here too: whatever dies from now on, it stands.
    """
    now = use.now()
    last = attempts.of_task(connection, task.id)[-1]
    ours = last.signing_key_id in use.keys and last.provider == spec.name
    unsent = last.outcome is Outcome.PLANNED and ours
    submission_id = last.id if unsent else ids.new_id("sub", now)
    if not moves.begin(connection, task.id, submission_id, now):
        return None
    if not unsent:
        attempts.plan(
            connection,
            id=submission_id,
            task_id=task.id,
            number=last.number + 1,
            provider=spec.name,
            signing_key_id=use.keys.newest,
            planned_at=now,
        )
    attempts.mark_sent(connection, submission_id, now, callback_requested=use.public_url is not None)
    jobs.enqueue(connection, [(Step.RECONCILE, task.id, now + spec.submit_deadline + _MARGIN)])
    return submission_id, last.signing_key_id if unsent else use.keys.newest


async def _fetch(use: Resources, image: dict[str, str | int], stack: AsyncExitStack) -> IO[bytes]:
    """All of an image in a file of our own: once bytes leave, no store can break off what is sent."""
    file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY, "w+b", dir=str(use.scratch))  # noqa: SIM115 - `stack` does
    stack.push_async_callback(asyncio.to_thread, file.close)
    key, size = str(image["store_key"]), int(image["bytes"])
    async for piece in use.store.read(key, 0, size):
        await asyncio.to_thread(file.write, piece)
    if file.tell() != size:
        raise Missing(key)  # only a part of it is there: nobody pays for that
    return file


def _order(
    use: Resources, task: Task, submission_id: str, proof: CallbackProof, images: dict[str, IO[bytes]]
) -> SubmitRequest:
    params = {name: value for name, value in task.request.items() if name != "images"}
    if not images and params["aspect_ratio"] is None:
        # BFL draws a square then, GPTProto 16:9 by its table: said aloud, both do the same.
        params["aspect_ratio"] = "1:1"
    callback_requested = use.public_url is not None
    return SubmitRequest(
        model=task.model,
        params=params,
        images=images,
        webhook_url=f"{use.public_url}/callbacks/{submission_id}/{proof.token}" if callback_requested else None,
        webhook_secret=proof.secret if callback_requested else None,
    )
