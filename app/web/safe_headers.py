"""Headers that keep answers out of caches, and browsers from guessing their type."""

from starlette.datastructures import MutableHeaders

from app.web.request_log import Asgi, Message, Receive, Send

# What a route sets itself counts, as for images, which may be stored and are revalidated.
SAFE = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
_CACHED = "/static/"  # the same for everybody


class SafeHeaders:
    """ASGI middleware. It adds the headers to each answer that does not have them."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = ("x-content-type-options",) if scope["path"].startswith(_CACHED) else tuple(SAFE)

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name in names:
                    headers.setdefault(name, SAFE[name])
            await send(message)

        await self._app(scope, receive, send_safely)
