"""Whether the answers to requests that made tasks have reached their clients.

An answer is delivered if its last byte was handed to the connection while the client was there. What the system still
buffers then is not known to be read: a client that hangs up during these bytes counts as answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Hashable, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.clock import Now
from app.db.engine.database import Database, as_postgres, write_until_available
from app.db.engine.fair_queue import service_task
from app.db.queries.processes import session_name
from app.db.tables import undelivered_requests
from app.errors import Unavailable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]
T = TypeVar("T")

_FLUSH_EVERY_S = 0.1  # between deletions of the rows of delivered answers
_MAX_KNOWN = 100_000  # answers whose row could not be written yet, because the database is away
_FLUSH_AT_END_S = 2.0
_SERVER_ERROR = 500


class Answers:
    """The answers of this process, an async context manager.

    The rows of delivered answers are deleted together, after the answers. Until then the process knows about them.
    """

    def __init__(self, db: Database, process_id: str, now: Now) -> None:
        self.process_id = process_id
        self.pending: set[str] = set()  # requests whose client waits for the answer
        self.delivered: dict[str, None] = {}  # whose row is to be deleted, oldest first
        self.lost: dict[str, None] = {}  # whose row is to be reopened
        self._recording: dict[Hashable, dict[Answer, asyncio.Event]] = {}
        self._db = db
        self._now = now
        self._flushing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        postgres = as_postgres(self._db)
        if postgres is not None:
            postgres.show_process(session_name(self.process_id))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._flushing is not None:
            await asyncio.wait([self._flushing], timeout=_FLUSH_AT_END_S)
            self._flushing.cancel()

    async def settled(self) -> None:
        """Wait until the rows of all delivered answers are deleted."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])

    @contextmanager
    def recording(self, identity: Hashable, answer: "Answer") -> Generator[None]:
        """Note during the block that the tasks of a request are being recorded. `identity`: what makes it identical."""
        ended = asyncio.Event()
        under_way = self._recording.setdefault(identity, {})
        under_way[answer] = ended
        try:
            yield
        finally:
            ended.set()
            del under_way[answer]
            if not under_way and self._recording.get(identity) is under_way:
                del self._recording[identity]

    def given_up(self, identity: Hashable) -> list[asyncio.Event]:
        """Return for each request that is being recorded, and whose client has gone, what is set at the end of that."""
        under_way = self._recording.get(identity, {})
        return [ended for answer, ended in under_way.items() if answer.is_gone]

    def serve(self, request_id: str) -> bool:
        """Whether the client of this request waits for its answer here, or has just got it."""
        return request_id in self.pending or request_id in self.delivered

    def note_delivered(self, request_id: str) -> None:
        self.pending.discard(request_id)
        if len(self.delivered) < _MAX_KNOWN:
            self.delivered[request_id] = None
        if self._flushing is None or self._flushing.done():
            self._flushing = service_task(self._flush())

    def note_gone(self, request_id: str) -> None:
        """Note in this process that the client does not get the answer, until `note_lost` records it."""
        self.pending.discard(request_id)
        if len(self.lost) < _MAX_KNOWN:
            self.lost[request_id] = None

    async def note_lost(self, request_id: str) -> None:
        """Record that the client did not get the answer, so that its retry joins."""
        self.note_gone(request_id)
        with suppress(Unavailable):  # then this process knows it alone
            await self._db.write(undelivered_requests.reopen, request_id, self._now())
            self.lost.pop(request_id, None)

    async def _flush(self) -> None:
        while self.delivered:
            await asyncio.sleep(_FLUSH_EVERY_S)
            request_ids = list(self.delivered)
            await write_until_available(self._db, undelivered_requests.remove, request_ids)
            for request_id in request_ids:
                self.delivered.pop(request_id, None)


class Answer:
    """The answer to one request. `begin` is called once the request is about to make tasks, or to join some."""

    def __init__(self, receive: Receive) -> None:
        self.request_id: str | None = None
        # Whether the answer says what became of the tasks; None: unless it is an error of the service.
        self.is_final: bool | None = None
        self._receive = receive
        self._gone = asyncio.Event()
        self._is_sent = self._is_reopened = False
        self._status = _SERVER_ERROR
        self._answers: Answers | None = None
        self._watching: asyncio.Task[None] | None = None

    def begin(self, answers: Answers, request_id: str) -> None:
        """Watch the connection from now on. The body must have been read."""
        self.request_id, self._answers = request_id, answers
        answers.pending.add(request_id)
        self._begin_to_watch()

    @property
    def is_gone(self) -> bool:
        """Whether the client has hung up before the end of the answer. Thread-safe."""
        return self._gone.is_set()

    def abandon(self) -> None:
        """Forget the request: it has made no tasks."""
        if self._answers is not None and self.request_id is not None:
            self._answers.pending.discard(self.request_id)
            self._answers.lost.pop(self.request_id, None)
        self.request_id = None

    async def while_there(self, work: Awaitable[T]) -> T:
        """Return the result of `work`. Raises ClientDisconnect as soon as the client has gone.

        The body must have been read.
        """
        self._begin_to_watch()
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientDisconnect
            return working.result()
        finally:
            working.cancel()
            leaving.cancel()

    async def reopen(self) -> None:
        """Record before the answer is sent that it is not what the client asked for. Its retry joins."""
        self.is_final, self._is_reopened = False, True
        if self._answers is not None and self.request_id is not None:
            await self._answers.note_lost(self.request_id)

    async def before_end(self) -> None:
        """Let the watching task see a connection that was lost just now. Call it before the last byte is sent."""
        if self._watching is not None:
            await asyncio.sleep(0)

    def note_status(self, status: int) -> None:
        self._status = status

    def note_sent(self) -> None:
        self._is_sent = not self._gone.is_set()

    async def end(self) -> None:
        """Record whether the answer was delivered."""
        if self._watching is not None:
            self._watching.cancel()
        if self._answers is None or self.request_id is None:
            return
        is_final = self._status < _SERVER_ERROR if self.is_final is None else self.is_final
        if self._is_sent and is_final:
            self._answers.note_delivered(self.request_id)
        elif not self._is_reopened:
            await self._answers.note_lost(self.request_id)

    def _begin_to_watch(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_sent:
            self._gone.set()
            if self._answers is not None and self.request_id is not None:
                self._answers.note_gone(self.request_id)


def answer_of(request: Request) -> Answer:
    answer: Answer = request.state.answer
    return answer


class AnswerTracking:
    """ASGI middleware that gives each POST its `Answer`, in `request.state.answer`."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        answer = scope.setdefault("state", {})["answer"] = Answer(receive)

        async def tracked(message: Message) -> None:
            is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                answer.note_status(int(message["status"]))
            if is_end:
                await answer.before_end()
            await send(message)
            if is_end:
                answer.note_sent()

        try:
            await self._app(scope, receive, tracked)
        finally:
            await answer.end()
