"""What became of the tasks of a request: their images, or the error that OpenAI's clients understand."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from app.db import Connection
from app.db.tables import results, tasks
from app.db.tables.results import Result
from app.db.tables.tasks import Task
from app.errors import ImageRemoved, NotFound, TaskEnded, TaskUnfinished
from app.resources import Connections, Resources
from app.rules.task import MODERATED, Failure, Status
from app.store import Missing
from app.web.auth import Caller
from app.web.feed import Feed
from app.web.routes.image import REMOVED
from app.web.task_response import wait_until_final

# What OpenAI's clients know as a refusal by its moderation.
_MODERATED = "content_policy_violation"
# Failures that the client can do something about; the others are 502.
_CLIENTS = {
    Failure.PROVIDER_REJECTED: HTTPStatus.BAD_REQUEST,
    Failure.DEADLINE_EXCEEDED: HTTPStatus.BAD_REQUEST,
}
_LOST = "asset_lost"


@dataclass(frozen=True, slots=True)
class Made:
    """A task with its image."""

    task: Task
    result: Result


async def images_of(
    use: Resources, feed: Feed, caller: Caller, task_ids: Sequence[str], seconds: float, *, are_found_again: bool
) -> list[Made]:
    """Wait until all tasks are final, for `seconds` at most, and return their images in this order.

    `are_found_again`: the same request finds these tasks, as the error about unfinished ones then says.

    Raises TaskUnfinished if one goes on, TaskEnded if one has no image or the store has lost it, NotFound if one was
    erased, Unauthorized once the key is revoked, and Unavailable.
    """
    ends_at = asyncio.get_running_loop().time() + seconds
    for task_id in task_ids:
        await wait_until_final(use, feed, caller, task_id, ends_at - asyncio.get_running_loop().time())
    found = await use.db.read(_read, task_ids)
    if len(found) < len(task_ids):
        raise NotFound("a task of this request was erased")
    unfinished = [task.id for task, _ in found if not task.status.final]
    if unfinished:
        raise TaskUnfinished(_not_yet(unfinished, are_found_again=are_found_again), unfinished)
    ended = [task for task, result in found if result is None]
    if ended:
        raise _ended(ended, [task.id for task, result in found if result is not None])
    made = [Made(task, result) for task, result in found if result is not None]
    await _require_stored(use, made)
    return made


async def _require_stored(use: Connections, made: Sequence[Made]) -> None:
    """Check that the store has these images. Raises TaskEnded if one is gone, and StoreUnavailable."""
    for image in made:
        if image.result.removed_at is not None:
            raise TaskEnded(ImageRemoved.code, HTTPStatus.GONE, REMOVED, [image.task.id])
        try:
            if await use.store.size(image.result.store_key) == image.result.bytes:
                continue
        except Missing:
            await use.store.check()  # an unavailable store raises: its images are not lost
        raise TaskEnded(_LOST, HTTPStatus.BAD_GATEWAY, "the image is no longer in the store", [image.task.id])


def _read(connection: Connection, task_ids: Sequence[str]) -> list[tuple[Task, Result | None]]:
    images = results.of_tasks(connection, task_ids)
    rows = [tasks.get(connection, task_id) for task_id in task_ids]
    return [(task, images.get(task.id)) for task in rows if task is not None]


def _not_yet(task_ids: Sequence[str], *, are_found_again: bool) -> str:
    is_one = len(task_ids) == 1
    what, them = ("the image is", "it") if is_one else ("the images are", "them")
    goes_on = f"the task goes on: {task_ids[0]}" if is_one else f"the tasks go on: {', '.join(task_ids)}"
    found = f"The same request finds {them}" if are_found_again else f"The same request would pay for {them} again"
    return f"{what} not finished yet; {goes_on}. {found}; GET /v1/tasks/ID shows {them}"


def _ended(ended: Sequence[Task], made: Sequence[str]) -> TaskEnded:
    """Return the error about tasks without an image; `made`: the ids of those of the same request that have one."""
    task = ended[0]
    detail = _reason(task)
    if made:
        detail += f". {len(made)} of {len(made) + len(ended)} images were made: GET /v1/tasks/ID/image of "
        detail += ", ".join(made)
    code = _MODERATED if task.failure in MODERATED else str(task.failure or task.status)
    return TaskEnded(code, _status(task), detail, [task.id, *(other.id for other in ended[1:]), *made])


def _status(task: Task) -> HTTPStatus:
    if task.status is Status.CANCELLED:
        return HTTPStatus.CONFLICT
    if task.failure in MODERATED:
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.BAD_GATEWAY if task.failure is None else _CLIENTS.get(task.failure, HTTPStatus.BAD_GATEWAY)


def _reason(task: Task) -> str:
    if task.status is Status.CANCELLED:
        return "the task was cancelled"
    if task.failure in MODERATED:
        what = "request" if task.failure is Failure.REQUEST_MODERATED else "result"
        return f"Your request was rejected as a result of the provider's safety system, which blocked the {what}"
    return f"{task.failure}: {task.failure_detail or 'the provider gave no reason'}"
