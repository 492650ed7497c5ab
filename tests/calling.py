"""A provider controlled by a test: callbacks of one attempt, and scripted answers."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from sqlalchemy import inspect, text

from app.db import Connection
from app.db.tables import attempts
from app.db.tables.attempts import Attempt
from app.provider import ProviderResponse, ProviderSpec, Reference, SubmitRequest
from app.provider.bfl import SPEC
from app.rules.task import Report, Said
from app.security.keyring import CallbackProof
from app.security.sign import bfl_signature
from app.twin import Faults
from tests.world import TWIN, World


@dataclass
class Caller:
    """Sends callbacks for one attempt, with any proof."""

    world: World
    task_id: str
    attempt_id: str
    proof: CallbackProof

    async def call(
        self, body: dict[str, Any] | bytes, proof: dict[str, str] | None = None, token: str | None = None
    ) -> httpx.Response:
        self.world.clock.advance(0.001)  # gives stored callbacks an order
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        address = f"/callbacks/{self.attempt_id}/{token or self.proof.token}"
        headers = {"content-type": "application/json", **(self.signature(raw) if proof is None else proof)}
        return await self.world.outsider.post(address, content=raw, headers=headers)

    def signature(self, raw: bytes) -> dict[str, str]:
        return {"x-bfl-signature": bfl_signature(self.proof.secret, raw)}

    @property
    def plain_secret(self) -> dict[str, str]:
        return {"x-webhook-secret": self.proof.secret}

    def ready(self, form: str = "documented", **changes: Any) -> dict[str, Any]:
        """Return a genuine result of the provider's newest task, in one of the two payload forms."""
        task = list(self.world.twin.tasks.values())[-1]
        sample = self.world.twin.links.url(TWIN, task)
        result = {"sample": sample, "prompt": "a red fox", "seed": task.seed}
        if form == "documented":
            return {"id": task.id, "status": "Ready", "result": result, **changes}
        return {"task_id": task.id, "status": "SUCCESS", "result": result, **changes}

    async def verdicts(self) -> list[tuple[str, str]]:
        """Return verdict and effect of every stored callback."""
        entries = await self.world.timeline(self.task_id, "evidence")
        return [(entry["verdict"], entry["effect"]) for entry in entries if entry["witness"] == "callback"]


def small(world: World) -> None:
    """Have the twin make small images, which is faster."""
    world.twin.rules = world.twin.rules.model_copy(update={"megapixels": 0.02})


async def done(world: World) -> None:
    """Let the provider finish its tasks, without the service learning of it."""
    world.clock.advance(3)
    await world.twin.tick()


async def attempt_of(world: World, task_id: str, number: int = 1) -> Attempt:
    found = await world.use.db.read(lambda connection: attempts.of_task(connection, task_id))
    return found[number - 1]


async def caller_of(world: World, task_id: str, number: int = 1) -> Caller:
    attempt = await attempt_of(world, task_id, number)
    return Caller(world, task_id, attempt.id, world.use.keys.callback_proof(attempt.id, attempt.signing_key_id))


async def submitted(world: World, *, faults: Faults | None = None, **params: Any) -> Caller:
    """Submit a task and return its caller; the provider sends no callback itself, unless `faults` allow it."""
    small(world)
    world.twin.faults = faults or Faults(drop_callback=1)
    task_id = await world.post(**params)
    await world.work()
    return await caller_of(world, task_id)


@dataclass
class Scripted:
    """A scripted provider. `submitting` answers each submission, and may inspect the world first."""

    submitting: Callable[[SubmitRequest], Awaitable[ProviderResponse]]
    fetched: ProviderResponse = field(default_factory=lambda: ProviderResponse(Report(Said.LOST)))
    orders: list[SubmitRequest] = field(default_factory=list)
    asked: list[Reference] = field(default_factory=list)

    name: str = "bfl"

    @property
    def spec(self) -> ProviderSpec:
        return replace(SPEC, name=self.name)

    async def submit(self, order: SubmitRequest) -> ProviderResponse:
        self.orders.append(order)
        return await self.submitting(order)

    async def fetch(self, reference: Reference) -> ProviderResponse:
        self.asked.append(reference)
        return self.fetched

    async def credits(self) -> ProviderResponse:
        return self.fetched

    async def reachable(self) -> str | None:
        return None


def answering(*answers: ProviderResponse) -> Scripted:
    """Return a provider that gives these answers in turn."""
    remaining = list(answers)

    async def submitting(_: SubmitRequest) -> ProviderResponse:
        return remaining.pop(0)

    return Scripted(submitting)


def everything(connection: Connection) -> bytes:
    """Return every value of every table, as searchable bytes."""
    found = []
    for table in inspect(connection).get_table_names():
        for row in connection.execute(text(f'select * from "{table}"')):  # noqa: S608 - our own tables
            found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\n".join(found)
