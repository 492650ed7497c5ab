"""A receiver of our webhooks that does what it is told, and a task that has come to an end."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tests.calling import small
from tests.world import World

HOST = "93.184.216.34"  # public, so that nothing has to be looked up
URL = f"https://{HOST}/hooks"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Receiver:
    """An application that was told something: what came, and what it answers."""

    answers: list[Response] = field(default_factory=list)  # in turn; the last for good
    heard: list[Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.bodies.append(await request.body())
        self.heard.append(request)
        if self.meanwhile is not None:
            await self.meanwhile()
        answer = self.answers.pop(0) if len(self.answers) > 1 else (self.answers or [Response()])[0]
        await answer(scope, receive, send)

    @property
    def ids(self) -> list[str]:
        return [each.headers["webhook-id"] for each in self.heard]


def receiver(world: World, *answers: int | Response, host: str = HOST) -> Receiver:
    """A receiver at this address, in the world's network, that answers so: statuses, or whole answers."""
    given = [Response(status_code=each) if isinstance(each, int) else each for each in answers]
    made = Receiver(given)
    world.network.add(host, made)
    return made


async def told(world: World, **params: Any) -> str:
    """A task whose image is stored, and whose submitter was told, or tried to be."""
    small(world)
    task_id = await world.post(**{"webhook_url": URL, **params})
    await world.go_on(6)
    assert (await world.task(task_id))["status"] == "stored"
    return task_id


async def ended(world: World, **params: Any) -> str:
    """A task that has ended at once, and whose submitter was told, or tried to be."""
    world.clock.advance(0.001)  # so that what is planned has an order
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
    """The one delivery that there is, with its attempts."""
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
    """Let time pass until a delivery is due, and do what is to be done."""
    due_at = datetime.fromisoformat(delivery["due_at"])
    world.clock.at = max(world.clock.at, due_at)
    await world.work()
