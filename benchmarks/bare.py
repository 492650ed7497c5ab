"""The upper bound: uvicorn without a framework."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_BODY = b'{"status":"success"}'  # the same length as the service's answer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def bare(scope: Message, receive: Receive, send: Send) -> None:
    """Read the body, answer 200."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})
