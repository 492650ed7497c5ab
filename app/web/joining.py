"""A retry joins: a request that repeats one whose answer was not delivered gets its tasks instead of new ones.

An identical request whose answer was delivered, or is being delivered, is a wish for another image.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from app import ids
from app.db import Connection
from app.db.engine.database import as_postgres
from app.db.queries import processes
from app.db.tables import tasks, undelivered_requests
from app.db.tables.undelivered_requests import UndeliveredRequest
from app.errors import RequestError
from app.params import TaskParams
from app.resources import Resources
from app.rules.task import Status
from app.telemetry import logs
from app.transitions import idempotency
from app.web.answers import Answers, answer_of
from app.web.auth import Caller

HEADER = "fluxhook-joined"

T = TypeVar("T")
OnRecord = Callable[[Connection, Sequence[str]], None]

_SPARE = timedelta(seconds=60)  # for reading, recording and sending, beside the time that an answer is held
# A client has hung up and asked again before its first connection was seen to close: how long to wait for that, and
# for requests of which age. A younger one is not given up by its client yet.
_NOTICE_S, _STEP_S = 0.5, 0.05
_YOUNG = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Repeatable:
    """What identifies a request, and how long its answer may be held. `has_images`: recording it takes time."""

    digest: str
    held: timedelta = timedelta()
    has_images: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """The tasks of an earlier request that this one has joined."""

    task_ids: Sequence[str]

    @property
    def headers(self) -> dict[str, str]:
        return {HEADER: ", ".join(self.task_ids)}


class _MayJoin(RequestError):
    """There is an identical request to look at. Nothing was recorded."""


async def repeatable(
    door: str, params: TaskParams, files: Mapping[str, IO[bytes]], count: int = 1, held_s: float = 0
) -> Repeatable:
    """Identify a request. `door`: the API, because a client repeats a request at the same one."""
    has_images = bool(files or params.images)
    if has_images:
        of_task = await asyncio.to_thread(idempotency.digest_of, params, files)
    else:
        of_task = idempotency.digest_of(params, files)
    digest = hashlib.sha256(f"{door} {count} {of_task}".encode()).hexdigest()
    return Repeatable(digest, timedelta(seconds=held_s), has_images)


async def join_or(
    request: Request, use: Resources, caller: Caller, repeated: Repeatable, record: Callable[[OnRecord], Awaitable[T]]
) -> T | Joined:
    """Join the tasks of an identical request whose answer was not delivered, or make new ones with `record`.

    `record` calls its argument in the transaction that records the tasks.
    """
    if not use.join_window or not caller.joins_retries:
        return await record(_ignore)
    attempt = _Attempt(request, use, caller, repeated)
    must_look = repeated.has_images or bool(attempt.answers.lost) or bool(attempt.given_up)
    if must_look and (joined := await attempt.join()) is not None:
        return joined
    try:
        return await attempt.record(record, in_any_case=must_look)
    except RequestError as error:
        # A limit or a budget refuses another task. The task of an earlier request is paid already.
        if (joined := await attempt.join()) is not None:
            return joined
        if not isinstance(error, _MayJoin):
            raise
    return await attempt.record(record, in_any_case=True)


def _ignore(_connection: Connection, _task_ids: Sequence[str]) -> None:
    pass


class _Attempt:
    """One request on its way to tasks."""

    def __init__(self, request: Request, use: Resources, caller: Caller, repeated: Repeatable) -> None:
        self.answers: Answers = request.app.state.answers
        self._use = use
        self._answer = answer_of(request)
        self._application_id = caller.application_id
        self._repeated = repeated
        self._identity = (caller.application_id, repeated.digest)

    @property
    def given_up(self) -> list[asyncio.Event]:
        """The ends of the recording of identical requests whose clients have gone: their rows are not visible yet."""
        return self.answers.given_up(self._identity)

    async def record(self, record: Callable[[OnRecord], Awaitable[T]], *, in_any_case: bool) -> T:
        """Make new tasks. Raises _MayJoin unless `in_any_case`."""
        now = self._use.now()
        request_id, since = ids.new_id("req", now), None if in_any_case else now - self._use.join_window
        is_recorded = False

        def note(connection: Connection, task_ids: Sequence[str]) -> None:
            nonlocal is_recorded
            row = UndeliveredRequest(
                id=request_id,
                application_id=self._application_id,
                digest=self._repeated.digest,
                task_ids=task_ids,
                process_id=self.answers.process_id,
                answer_due_at=now + self._repeated.held + _SPARE,
                tried_at=now,
            )
            if self._answer.is_gone:  # its retry could not find what is recorded now
                raise ClientDisconnect
            is_recorded = undelivered_requests.record(connection, row, since)
            if not is_recorded:
                raise _MayJoin("an identical request may be joined")

        self._answer.begin(self.answers, request_id)
        try:
            with self.answers.recording(self._identity, self._answer):
                return await record(note)
        except BaseException:
            if not is_recorded:
                self._answer.abandon()
            raise

    async def join(self) -> Joined | None:
        """Join an identical request whose client did not get its answer; the oldest, if there are several."""
        for ended in self.given_up:
            await ended.wait()
        ends_at = asyncio.get_running_loop().time() + _NOTICE_S
        while True:
            now, is_outrun = self._use.now(), False
            found = await self._use.db.read(self._identical, now - self._use.join_window)
            for row in found:
                if await self._is_lost(row, now):
                    if (joined := await self._take_over(row)) is not None:
                        return joined
                    is_outrun = True
                elif row.process_id == self.answers.process_id and not self.answers.serve(row.id):
                    is_outrun = True  # its answer ended while the row was read: it is deleted or reopened by now
            old = any(now - row.tried_at > _YOUNG for row in found if not self.answers.serve(row.id))
            if not (old or is_outrun) or asyncio.get_running_loop().time() > ends_at:
                return None
            await asyncio.sleep(_STEP_S)

    def _identical(self, connection: Connection, since: datetime) -> list[UndeliveredRequest]:
        return undelivered_requests.identical(connection, self._application_id, self._repeated.digest, since)

    async def _is_lost(self, row: UndeliveredRequest, now: datetime) -> bool:
        """Whether the client of this request can no longer get its answer. The row may be older than what is known."""
        if self.answers.serve(row.id):
            return False
        if row.answer_due_at is None or row.answer_due_at <= now or row.id in self.answers.lost:
            return True
        postgres = as_postgres(self._use.db)
        if postgres is not None and not postgres.shows_processes:
            return False
        return not await self._use.db.read(processes.lives, row.process_id)

    async def _take_over(self, row: UndeliveredRequest) -> Joined | None:
        """Answer this request in its place. None if another one was faster, or its tasks are no longer there."""
        now = self._use.now()
        request_id, due_at = ids.new_id("req", now), now + self._repeated.held + _SPARE

        def take(connection: Connection) -> bool:
            mine = UndeliveredRequest(
                row.id, row.application_id, row.digest, row.task_ids, self.answers.process_id, due_at, now
            )
            if not undelivered_requests.take_over(connection, mine, request_id, due_at):
                return False
            found = [tasks.get(connection, task_id) for task_id in row.task_ids]
            if all(task is not None and task.status is not Status.CANCELLED for task in found):
                return True
            undelivered_requests.remove(connection, [request_id])
            return False

        self._answer.begin(self.answers, request_id)
        is_taken = False
        try:
            with self.answers.recording(self._identity, self._answer):
                is_taken = await self._use.db.write(take)
        finally:
            if not is_taken:
                self._answer.abandon()
        if not is_taken:
            return None
        self.answers.lost.pop(row.id, None)
        logs.note(task_id=row.task_ids[0])
        return Joined(row.task_ids)
