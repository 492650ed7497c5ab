"""A receiver of webhooks with scripted answers, and tasks that have ended."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tests.calling import small
from tests.world import World

HOST = "93.184.216.34"  # a public address, which needs no DNS
URL = f"https://{HOST}/hooks"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Receiver:
    """An application that receives webhooks: its requests, and its answers."""

    answers: list[Response] = field(default_factory=list)  # in turn; the last one is repeated
    requests: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.bodies.append(await request.body())
        self.requests.append(request)
        if self.meanwhile is not None:
            await self.meanwhile()
        answer = self.answers.pop(0) if len(self.answers) > 1 else (self.answers or [Response()])[0]
        await answer(scope, receive, send)

    @property
    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.requests]


def receiver(world: World, *answers: int | Response, host: str = HOST) -> Receiver:
    """Add a receiver at this host to the world's network; its answers are statuses or responses."""
    responses = [Response(status_code=answer) if isinstance(answer, int) else answer for answer in answers]
    application = Receiver(responses)
    world.network.add(host, application)
    return application


async def stored_with_webhook(world: World, **params: Any) -> str:
    """Return a task whose image is stored and whose webhook was sent, or tried."""
    small(world)
    task_id = await world.post(**{"webhook_url": URL, **params})
    await world.go_on(6)
    assert (await world.task(task_id))["status"] == "stored"
    return task_id


async def ended(world: World, **params: Any) -> str:
    """Return a task that was cancelled at once and whose webhook was sent, or tried."""
    world.clock.advance(0.001)  # gives deliveries an order
    task_id = await world.post(**{"webhook_url": URL, **params})
    await world.api.post(f"/v1/tasks/{task_id}/cancel")
    await world.work()
    return task_id


async def deliveries(world: World, **query: Any) -> list[dict[str, Any]]:
    answer = await world.api.get("/v1/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["deliveries"]
    return found


async def only_delivery(world: World, **query: Any) -> dict[str, Any]:
    """Return the only delivery, with its attempts."""
    (found,) = await deliveries(world, **query)
    answer = await world.api.get(f"/v1/deliveries/{found['id']}")
    assert answer.status_code == 200, answer.text
    detail: dict[str, Any] = answer.json()
    return detail


async def endpoint(world: World, **query: Any) -> dict[str, Any]:
    answer = await world.api.get("/v1/endpoints", params=query)
    (found,) = answer.json()["endpoints"]
    assert isinstance(found, dict)
    return found


async def until_due(world: World, delivery: dict[str, Any]) -> None:
    """Advance the clock until a delivery is due, and run all due jobs."""
    due_at = datetime.fromisoformat(delivery["due_at"])
    world.clock.at = max(world.clock.at, due_at)
    await world.work()
