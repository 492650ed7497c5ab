"""Accept a task: validate it, store its input images, and record task, attempt and job in one transaction.

Nothing is sent to the provider here, and a refused task leaves no row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import IO

from app import ids
from app.db import Connection
from app.db.tables import attempts, tasks
from app.db.tables.attempts import NewAttempt
from app.db.tables.tasks import NewTask
from app.errors import InvalidRequest, ProviderUnavailable
from app.images.inputs import take_inputs
from app.params import IMAGE_FIELDS, OPTIONS, Params, TaskParams
from app.resources import Resources
from app.rules.request import StoredImage, TaskRequest
from app.rules.task import Status
from app.telemetry import logs, tracing
from app.transitions.admit import admit
from app.transitions.announce import Announcement, announce
from app.webhooks import subscription

_MIN_SIDE = 256  # pixels
_MAX_EDIT_TOLERANCE = 2


async def submit(
    use: Resources,
    key_id: str,
    params: TaskParams,
    files: Mapping[str, IO[bytes]],
    on_record: Callable[[Connection, str], None] = lambda _connection, _task_id: None,
    origin: str | None = None,
    warnings: Sequence[str] = (),
) -> str:
    """Record a task for dispatch and return its id.

    `files`: uploaded images by field name; they replace the strings in `params`.
    `on_record`: called with the connection and the task's id inside the transaction that records the task.
    `origin`: the origin at which the client reached this service, for links if no public URL is configured.
    `warnings`: warnings about the request, to be recorded with those about its values.

    Raises InvalidRequest or TooLarge, which name the invalid field, DiskFull, and Unavailable if no provider key is
    configured or an image cannot be stored.
    """
    if use.provider is None:
        raise ProviderUnavailable("no provider key is configured: the operator has to set one")
    await use.disk.require()
    if params.deadline_at is not None and params.deadline_at <= use.now():
        raise InvalidRequest("deadline_at: is in the past", {"deadline_at": "is in the past"})
    spec = use.provider.spec
    subscription.check(use, params)
    taken = await take_inputs(use, spec, _in_order(params, files), auto_orient=params.auto_orient)
    images = [image.stored for image in taken]
    warnings = (*warnings, *_warnings(params, images), *(warning for image in taken for warning in image.warnings))
    now = use.now()
    task_id, attempt_id = ids.new_id("task", now), ids.new_id("sub", now)
    task = NewTask(
        id=task_id,
        key_id=key_id,
        provider=spec.name,
        account_id=use.account_id,
        model=params.model,
        request=_request(params, images),
        warnings=warnings,
        priority=params.priority,
        deadline_at=params.deadline_at,
        dispatch_after_at=now,
        attempt_id=attempt_id,
        created_at=now,
        traceparent=tracing.traceparent(),
    )
    attempt = NewAttempt(
        id=attempt_id,
        task_id=task_id,
        number=1,
        provider=spec.name,
        signing_key_id=use.keys.newest,
        planned_at=now,
    )

    def record(connection: Connection) -> None:
        webhook = subscription.of_task(connection, use.keys, task_id, key_id, params, origin)
        tasks.insert(connection, replace(task, webhook=webhook))
        attempts.plan(connection, attempt)
        announce(connection, [Announcement(task_id, Status.QUEUED)], now)
        admit(connection, use.account_id, now)
        on_record(connection, task_id)

    await use.db.write(record)
    logs.note(task_id=task_id, submission_id=attempt_id)
    return task_id


def _in_order(params: Params, files: Mapping[str, IO[bytes]]) -> dict[str, str | IO[bytes]]:
    """Return the sources of the input images in the order of their fields. Raises InvalidRequest for a gap."""
    sources: dict[str, str | IO[bytes]] = {**params.images(), **files}
    expected = IMAGE_FIELDS[: len(sources)]
    for field in expected:
        if field not in sources:
            reason = "missing: images are numbered without a gap"
            raise InvalidRequest(f"{field}: {reason}", {field: reason})
    return {field: sources[field] for field in expected}


def _request(params: Params, images: Sequence[StoredImage]) -> TaskRequest:
    """Return the request as recorded with the task: the parameters, and references in place of images."""
    parameters = params.model_dump(exclude={"model", *IMAGE_FIELDS, *OPTIONS})
    if params.user is None:
        del parameters["user"]  # newer than the other fields, so it is sent only if it is given
    return TaskRequest(parameters, tuple(images))


def _warnings(params: Params, images: Sequence[StoredImage]) -> list[str]:
    """Return warnings about values on which the provider's documents disagree. The provider decides about them."""
    warnings = []
    if images and params.safety_tolerance > _MAX_EDIT_TOLERANCE:
        warnings.append("safety_tolerance above 2 with an input image: BFL's editing guide allows 0 to 2")
    warnings += [
        f"{image.field} is {image.width}x{image.height}: BFL's own client requires sides of at least {_MIN_SIDE}"
        for image in images
        if min(image.width, image.height) < _MIN_SIDE
    ]
    return warnings
