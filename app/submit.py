"""Accept a task: validate it, store its input images, and record task, attempt and job in one transaction.

Nothing is sent to the provider here, and a refused task leaves no row and no image. The keys of input images are
recorded before they are stored, until their task is: the sweep removes those of a request that died in between.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import IO

from app import ids
from app.db import Connection
from app.db.tables import applications, attempts, tasks, unrecorded_images
from app.db.tables.attempts import NewAttempt
from app.db.tables.tasks import NewTask
from app.errors import InvalidRequest, ProviderUnavailable, RequestError, Unavailable
from app.images.inputs import TakenImage, take_inputs
from app.params import TaskParams
from app.provider import Account
from app.resources import Connections, Policy, Resources
from app.rules.request import TaskRequest
from app.rules.shares import Share
from app.rules.task import Status
from app.telemetry import logs, tracing
from app.transitions import budgets, limits, removals
from app.transitions.admit import admit
from app.transitions.announce import Announcement, announce
from app.transitions.permit import permit
from app.webhooks import subscription


async def submit(
    use: Resources,
    key_id: str,
    params: TaskParams,
    files: Mapping[str, IO[bytes]],
    on_record: Callable[[Connection, str], None] = lambda _connection, _task_id: None,
    on_admit: Callable[[Connection, bool], None] = lambda _connection, _is_admitted: None,
    origin: str | None = None,
) -> str:
    """Record a task for dispatch and return its id.

    `files`: the images that are files or long texts, by slot, beside those in `params`.
    `on_record`: called with the connection and the task's id in the transaction that records the task, before the task
    can get a slot. `on_admit`: called at the end of the transaction with the connection and whether the task got a
    slot. The account's row is locked by then, so it should take few statements.
    `origin`: the origin at which the client reached this service, for links if no public URL is configured.

    Raises InvalidRequest or TooLarge, which name the invalid field, LimitExceeded, BudgetExceeded, DiskFull, and
    Unavailable if no provider key is configured or an image cannot be stored.
    """

    def record_one(connection: Connection, task_ids: Sequence[str]) -> None:
        on_record(connection, task_ids[0])

    def admit_one(connection: Connection, admitted: Collection[str]) -> None:
        on_admit(connection, bool(admitted))

    owner = applications.id_of_key(key_id)
    return (await submit_several(use, key_id, owner, params, files, 1, record_one, admit_one, origin))[0]


async def submit_several(
    use: Resources,
    key_id: str,
    application_id: str,
    params: TaskParams,
    files: Mapping[str, IO[bytes]],
    count: int,
    on_record: Callable[[Connection, Sequence[str]], None],
    on_admit: Callable[[Connection, Collection[str]], None],
    origin: str | None = None,
) -> list[str]:
    """Record `count` tasks for the same request in one transaction: all or none. Return their ids.

    Each has images of its own, so that it can be erased alone. `on_admit` gets the ids of those that got a slot. The
    application of the key has few such transactions at once, so that others do not wait behind all its requests. See
    `submit`.
    """
    account = _first_account(use, params.model.id)
    await use.disk.require()
    options, rules = params.options, params.model.images
    if options.deadline_at is not None and options.deadline_at <= use.now():
        raise InvalidRequest("deadline_at: is in the past", {"deadline_at": "is in the past"})
    await subscription.check(use, options)
    sources: dict[str, str | IO[bytes]] = {**params.images, **files}
    in_order = {slot: sources[slot] for slot in rules.slots if slot in sources}
    share = Share("", None)  # there is no image
    if in_order:
        share = await use.db.read(limits.image_share, use.limits, key_id, count)
    planned: list[tuple[NewTask, NewAttempt]] = []
    store_keys: list[str] = []
    try:
        for _ in range(count):
            taken = await take_inputs(use, rules, in_order, share, store_keys, auto_orient=options.auto_orient)
            planned.append(_plan(use, account, key_id, params, taken))
    except Exception:
        await _remove(use, store_keys)  # one whose store gave no answer is left to the sweep: it may still be stored
        raise
    task_ids = [task.id for task, _ in planned]

    def record(connection: Connection) -> None:
        now = planned[0][0].created_at
        right = permit(connection, use, key_id, params.model, now, count=count, priority=options.priority)
        if store_keys and not unrecorded_images.remove(connection, store_keys):
            raise _TooLate("the request took so long that its images are removed")
        region = None if right.key is None else right.key.region
        first = account if region is None else _first_account(use, params.model.id, region)
        for task, attempt in planned:
            webhook = subscription.of_task(use.keys, task.id, right.key, options, origin)
            owned = replace(task, application_id=right.application_id, webhook=webhook)
            tasks.insert(connection, replace(owned, region=region, account_id=first.id, provider=first.spec.name))
            attempts.plan(connection, attempt)
        announce(connection, [Announcement(task_id, Status.QUEUED) for task_id in task_ids], now)
        on_record(connection, task_ids)
        # Late, because it locks the rows of budgets, which many tasks share.
        budgets.reserve(connection, right.price, task_ids, now)
        # Last, because it locks the rows of the accounts.
        admitted = admit(connection, now)
        on_admit(connection, {task_id for task_id in task_ids if task_id in admitted})

    try:
        async with use.recording.taken(application_id):
            await use.db.write(record)
    except (RequestError, _TooLate):  # after any other error the tasks may be recorded
        await _remove(use, store_keys)
        raise
    logs.note(task_id=task_ids[0], submission_id=planned[0][1].id)
    return task_ids


class _TooLate(Unavailable):
    """The sweep has given this request up."""


async def _remove(use: Resources, store_keys: Sequence[str]) -> None:
    """Remove the images of a request that was refused, in a job."""

    def request(connection: Connection) -> None:
        unrecorded_images.remove(connection, store_keys)
        removals.request(connection, store_keys, use.now())

    with suppress(Unavailable):  # the sweep then removes them
        if store_keys:
            await use.db.write(request)


def _plan(
    use: Policy, account: Account, key_id: str, params: TaskParams, images: Sequence[TakenImage]
) -> tuple[NewTask, NewAttempt]:
    """Return a task and its first attempt, to be recorded."""
    model, now = params.model, use.now()
    request = TaskRequest(
        parameters=params.parameters,
        images=tuple(image.stored for image in images),
        path=None if model.path == f"/v1/{model.id}" else model.path,
        webhook=model.webhook,
    )
    task_id, attempt_id = ids.new_id("task", now), ids.new_id("sub", now)
    task = NewTask(
        id=task_id,
        key_id=key_id,
        application_id=applications.id_of_key(key_id),
        provider=account.spec.name,
        account_id=account.id,
        model=model.id,
        request=request,
        warnings=(*params.warnings, *(warning for image in images for warning in image.warnings)),
        priority=params.options.priority,
        deadline_at=params.options.deadline_at,
        dispatch_after_at=now,
        attempt_id=attempt_id,
        created_at=now,
        traceparent=tracing.traceparent(),
        user=params.user,
        metadata=params.options.metadata,
        estimated_cost=budgets.estimate(use, model),
    )
    attempt = NewAttempt(
        id=attempt_id,
        task_id=task_id,
        number=1,
        provider=task.provider,
        signing_key_id=use.keys.newest,
        planned_at=now,
    )
    return task, attempt


def _first_account(use: Connections, model: str, region: str | None = None) -> Account:
    """Return the first account that serves a model, in a region if the key is limited to one.

    Admission may give the task to another one that does. Raises InvalidRequest if there is none.
    """
    if not use.accounts.can_submit:
        raise ProviderUnavailable("no provider key is configured: the operator has to set one")
    serving = use.accounts.serving(model, region)
    if not serving:
        where = "" if region is None else f" in the region {region}, to which the API key is limited"
        reason = f"none of the configured accounts serves it{where}"
        raise InvalidRequest(f"model: {reason}", {"model": reason})
    return serving[0]
