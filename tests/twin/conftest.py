"""A twin with a frozen clock, and a receiver that stores the callbacks it gets."""

import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.twin import Rules, Twin, create_twin_app

START = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
HOOK = "http://receiver.test/hook"


@dataclass
class FrozenClock:
    at: datetime = START

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class Delivered:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A server that stores requests, and answers with the statuses in `answers`, then with 200. `file` is the body."""

    answers: list[int] = field(default_factory=list)
    got: list[Delivered] = field(default_factory=list)
    file: bytes = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.got.append(Delivered(dict(request.headers), await request.body()))
        status = self.answers.pop(0) if self.answers else 200
        await Response(self.file, status_code=status)(scope, receive, send)


@dataclass
class Scene:
    """The twin with its surroundings. `client` sends a valid key for BFL and for GPTProto."""

    twin: Twin
    clock: FrozenClock
    receiver: Receiver
    client: httpx.AsyncClient

    async def submit(self, prompt: str = "a lake", **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/flux-kontext-pro", json={"prompt": prompt, **fields})

    async def called(self, prompt: str = "a lake", **fields: Any) -> httpx.Response:
        """Submit with a webhook."""
        return await self.submit(prompt, **{"webhook_url": HOOK, "webhook_secret": "s3cret", **fields})

    async def poll(self, task_id: str) -> httpx.Response:
        return await self.client.get("/v1/get_result", params={"id": task_id})

    async def after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.twin.tick()

    async def sample(self, prompt: str = "a lake", **fields: Any) -> str:
        """Submit a task, let it finish, and return the link to its image."""
        task_id = (await self.submit(prompt, **fields)).json()["id"]
        self.clock.advance(2)
        return str((await self.poll(task_id)).json()["result"]["sample"])

    async def sample_after_redirect(self) -> str:
        """As `sample`, if polls are redirected: the path is requested again with the query of the redirect."""
        task_id = (await self.submit()).json()["id"]
        self.clock.advance(2)
        url = httpx.URL((await self.poll(task_id)).headers["location"])
        return str((await self.client.get(url.raw_path.decode())).json()["result"]["sample"])

    async def faults(self, **faults: float) -> None:
        (await self.client.put("/twin/faults", json=faults)).raise_for_status()

    async def rules(self, **rules: Any) -> None:
        (await self.client.put("/twin/rules", json=rules)).raise_for_status()

    async def ledger(self) -> Any:
        return (await self.client.get("/twin/ledger")).json()

    async def kinds(self) -> list[str]:
        """Return the kinds of all callbacks that were sent, in order, task by task."""
        return [callback["kind"] for task in (await self.ledger())["tasks"] for callback in task["callbacks"]]


@pytest.fixture
async def scene() -> AsyncGenerator[Scene, None]:
    clock, receiver = FrozenClock(), Receiver()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(receiver)) as send:
        twin = Twin(Rules(megapixels=0.02), now=clock, send=send)
        transport = httpx.ASGITransport(create_twin_app(twin, running=False))
        headers = {"x-key": "good", "authorization": "Bearer good"}
        async with httpx.AsyncClient(transport=transport, base_url="http://twin.test", headers=headers) as client:
            yield Scene(twin, clock, receiver, client)


@pytest.fixture
def photo() -> str:
    """Base64 of a 60 x 30 PNG: red on the left, blue on the right."""
    image = Image.new("RGB", (60, 30), (200, 20, 20))
    image.paste((20, 20, 200), (30, 0, 60, 30))
    out = BytesIO()
    image.save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
