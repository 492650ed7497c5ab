"""Helpers for the tests of flaws: new worlds, and callbacks delivered without HTTP."""

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from app.callback import Reply, receive
from app.resources import Resources
from tests.calling import Caller
from tests.world import World

Worlds: TypeAlias = Callable[..., AbstractAsyncContextManager[World]]
Receive: TypeAlias = Callable[..., Awaitable[Reply]]


async def delivered(use: Resources, caller: Caller, body: dict[str, Any] | bytes, handler: Receive = receive) -> Reply:
    """Deliver a callback with a valid signature, without HTTP."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = [(name.encode(), value.encode()) for name, value in caller.signature(raw).items()]
    return await handler(use, caller.attempt_id, caller.proof.token, headers, one(raw))


def one(raw: bytes) -> Callable[[int], Awaitable[bytes | None]]:
    async def read(max_bytes: int) -> bytes | None:
        return raw if len(raw) <= max_bytes else None

    return read


async def status_of(world: World, caller: Caller) -> str:
    return str((await world.task(caller.task_id))["status"])
