"""One line for each request, written at its end: method, route, status, time, key and task; nothing else."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from app import ids, logs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

log = logs.get("web")


class RequestLog:
    """ASGI middleware. It names the route's template, because a path may hold a token."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            log.info(
                "request",
                method=scope["method"],
                route=getattr(scope.get("route"), "path", "no such route"),
                status=int(status),
                ms=round((time.monotonic() - started) * 1000, 1),
                key_id=scope.get("state", {}).get("key_id"),
                task_id=_task_id(scope),
            )


def _task_id(scope: Message) -> str | None:
    """The id in the path, where it is one: anything may stand there, a key or a prompt too."""
    given = scope.get("path_params", {}).get("task_id", "")
    return given if ids.is_id("task", given) else None
