"""Accept a task: validate it, store its input images, and record task, attempt and job in one transaction.

Nothing is sent to the provider here, and a refused task leaves no row.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO

from app import ids
from app.db import Connection
from app.db.tables import attempts, tasks
from app.db.tables.attempts import NewAttempt
from app.db.tables.tasks import NewTask
from app.errors import InvalidRequest, ProviderUnavailable
from app.images.inputs import take_inputs
from app.params import TaskParams
from app.resources import Resources
from app.rules.request import TaskRequest
from app.rules.task import Status
from app.telemetry import logs, tracing
from app.transitions.admit import admit
from app.transitions.announce import Announcement, announce
from app.webhooks import subscription


async def submit(
    use: Resources,
    key_id: str,
    params: TaskParams,
    files: Mapping[str, IO[bytes]],
    on_record: Callable[[Connection, str], None] = lambda _connection, _task_id: None,
    origin: str | None = None,
) -> str:
    """Record a task for dispatch and return its id.

    `files`: the images that are files or long texts, by slot, beside those in `params`.
    `on_record`: called with the connection and the task's id inside the transaction that records the task.
    `origin`: the origin at which the client reached this service, for links if no public URL is configured.

    Raises InvalidRequest or TooLarge, which name the invalid field, DiskFull, and Unavailable if no provider key is
    configured or an image cannot be stored.
    """
    if use.provider is None:
        raise ProviderUnavailable("no provider key is configured: the operator has to set one")
    await use.disk.require()
    options, model = params.options, params.model
    if options.deadline_at is not None and options.deadline_at <= use.now():
        raise InvalidRequest("deadline_at: is in the past", {"deadline_at": "is in the past"})
    subscription.check(use, options)
    sources: dict[str, str | IO[bytes]] = {**params.images, **files}
    in_order = {slot: sources[slot] for slot in model.images.slots if slot in sources}
    taken = await take_inputs(use, model.images, in_order, auto_orient=options.auto_orient)
    request = TaskRequest(
        parameters=params.parameters,
        images=tuple(image.stored for image in taken),
        path=None if model.path == f"/v1/{model.id}" else model.path,
        webhook=model.webhook,
    )
    now = use.now()
    task_id, attempt_id = ids.new_id("task", now), ids.new_id("sub", now)
    task = NewTask(
        id=task_id,
        key_id=key_id,
        provider=use.provider.spec.name,
        account_id=use.account_id,
        model=model.id,
        request=request,
        warnings=(*params.warnings, *(warning for image in taken for warning in image.warnings)),
        priority=options.priority,
        deadline_at=options.deadline_at,
        dispatch_after_at=now,
        attempt_id=attempt_id,
        created_at=now,
        traceparent=tracing.traceparent(),
    )
    attempt = NewAttempt(
        id=attempt_id,
        task_id=task_id,
        number=1,
        provider=task.provider,
        signing_key_id=use.keys.newest,
        planned_at=now,
    )

    def record(connection: Connection) -> None:
        webhook = subscription.of_task(connection, use.keys, task_id, key_id, options, origin)
        tasks.insert(connection, replace(task, webhook=webhook))
        attempts.plan(connection, attempt)
        announce(connection, [Announcement(task_id, Status.QUEUED)], now)
        admit(connection, use.account_id, now)
        on_record(connection, task_id)

    await use.db.write(record)
    logs.note(task_id=task_id, submission_id=attempt_id)
    return task_id
