"""Record the tasks of a request, once, together with the answer that a repetition gets."""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import IO

from app.db import Connection
from app.db.tables.idempotency_keys import StoredAnswer
from app.errors import RequestError, TaskMayExist, Unavailable
from app.params import TaskParams
from app.resources import Resources
from app.submit import submit_several
from app.transitions import idempotency
from app.transitions.idempotency import Claim
from app.web import problems
from app.web.auth import Caller
from app.web.joining import OnRecord
from app.web.schemas.tasks import TaskView
from app.web.task_response import (
    read_task_view,
)


async def submit_once(
    use: Resources,
    caller: Caller,
    params: TaskParams,
    files: dict[str, IO[bytes]],
    claim: Claim | None,
    origin: str,
    on_record: OnRecord | None = None,
) -> TaskView:
    """Submit a task and return it as it was recorded.

    It is read in the transaction that records it, so nothing can fail between the record and the answer. With a claim,
    it is also stored as the answer for the Idempotency-Key; if the request fails without a task, the claim is released.

    Raises TaskMayExist if the outcome of the transaction is unknown.
    """
    queued: TaskView | None = None
    recorded: TaskView | None = None

    def read_queued(connection: Connection, task_ids: Sequence[str]) -> None:
        nonlocal queued
        if on_record is not None:
            on_record(connection, task_ids)
        queued = read_task_view(connection, task_ids[0], None)

    def store_answer(connection: Connection, admitted: Collection[str]) -> None:
        nonlocal recorded
        if queued is None:
            return
        recorded = queued.model_copy(update={"queue": None}) if admitted else queued
        if claim is not None:
            claim.answer(connection, StoredAnswer(recorded.id, recorded.model_dump(mode="json")))

    await record_once(use, caller, params, files, 1, claim, origin, read_queued, store_answer)
    if recorded is None:
        raise AssertionError("unreachable: the task was read in the transaction that recorded it")
    return recorded


async def record_once(
    use: Resources,
    caller: Caller,
    params: TaskParams,
    files: dict[str, IO[bytes]],
    count: int,
    claim: Claim | None,
    origin: str,
    on_record: Callable[[Connection, Sequence[str]], None],
    on_admit: Callable[[Connection, Collection[str]], None] = lambda _connection, _admitted: None,
) -> list[str]:
    """Submit `count` tasks at once and return their ids; if the request fails without a task, release the claim.

    `on_record` and `on_admit`: see `submit`. Raises TaskMayExist if the outcome of the transaction is unknown.
    """
    task_id: str | None = None
    may_exist: str | None = None

    def note_record(connection: Connection, task_ids: Sequence[str]) -> None:
        nonlocal task_id, may_exist
        task_id, may_exist = task_ids[0], None
        on_record(connection, task_ids)

    def note_end(connection: Connection, admitted: Collection[str]) -> None:
        nonlocal may_exist
        on_admit(connection, admitted)
        may_exist = task_id

    try:
        return await submit_several(
            use, caller.key_id, caller.application_id, params, files, count, note_record, note_end, origin
        )
    except Exception as error:
        if claim is not None:
            with suppress(Unavailable):  # the claim then expires by itself
                await idempotency.release(use, claim)
        if may_exist is None or isinstance(error, RequestError):
            raise
        if not isinstance(error, Unavailable):
            problems.log_unexpected(error, "POST")
        raise TaskMayExist(may_exist) from error
