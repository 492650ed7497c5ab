"""Flaws in receiving. Each of the nine flaws in this folder replaces real code, and its check must then fail.

A check states a promise and first runs on the real code. A flaw replaces a field of Resources or is passed as a
function. If neither is possible, pytest's `monkeypatch` replaces one name; only this folder replaces code.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, Dialect, text

from app import callback
from app.callback import Reply, receive
from app.db.engine.database import Database
from app.db.tables import idempotency_keys
from app.provider import messages
from app.resources import Resources
from app.rules.task import Report
from app.security.verify import Headers, SigningProfile, Verdict, verify
from app.settle import settle
from tests.calling import done, submitted
from tests.databases import OneByOne
from tests.flaws.deliveries import Receive, Worlds, delivered, status_of
from tests.world import World, open_world, with_database

T = TypeVar("T")


# 1. Acknowledge before commit.


async def an_accepted_callback_is_durable(world: World, flaw: Callable[[Resources], Resources]) -> None:
    caller = await submitted(world)
    await done(world)
    reply = await delivered(flaw(world.use), caller, caller.ready())
    # The process dies here: uncommitted changes are lost.
    assert (reply, await status_of(world, caller)) == (Reply.ACCEPTED, "ready")


@dataclass
class AnswersFirst(OneByOne):
    """Reports a write as done without doing it."""

    inner: Database

    @property
    def dialect(self) -> Dialect:
        return self.inner.dialect

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002 - the flaw
        return True

    async def read(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return await self.inner.read(work, *args, **kwargs)

    def on_jobs(self, listener: Callable[[], None], claimer: object | None = None) -> None:
        self.inner.on_jobs(listener, claimer)

    def on_events(self, listener: Callable[[], None]) -> None:
        self.inner.on_events(listener)


async def test_acknowledging_before_the_commit_is_caught(worlds: Worlds) -> None:
    async with worlds() as world:
        await an_accepted_callback_is_durable(world, lambda use: use)
    async with worlds() as world:
        with pytest.raises(AssertionError, match="submitted"):
            await an_accepted_callback_is_durable(world, lambda use: with_database(use, AnswersFirst(use.db)))


# 2. Check, then insert.


async def one_key_is_one_task(world: World) -> None:
    headers = {"idempotency-key": f"key-{world.clock().timestamp()}"}
    params = {"prompt": "a red fox"}
    answers = await asyncio.gather(*(world.api.post("/v1/tasks", json=params, headers=headers) for _ in range(6)))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len((await world.api.get("/v1/tasks")).json()["tasks"]) == 1


def begin_after_a_check(connection: Connection, key_id: str, idempotency_key: str, digest: str, now: datetime) -> bool:
    if idempotency_keys.get(connection, key_id, idempotency_key) is not None:
        return False
    connection.execute(text("select pg_sleep(0.1)"))  # long enough for another connection to check, too
    really_begin(connection, key_id, idempotency_key, digest, now)
    return True


really_begin = idempotency_keys.begin


async def test_checking_before_inserting_is_caught(
    tmp_path: Path, postgres_url: str, postgres_other_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_world(tmp_path, postgres_url) as world:
        await one_key_is_one_task(world)
    monkeypatch.setattr(idempotency_keys, "begin", begin_after_a_check)
    async with open_world(tmp_path, postgres_other_url) as world:
        with pytest.raises(AssertionError):
            await one_key_is_one_task(world)


@pytest.fixture
async def postgres_other_url(postgres: Any, postgres_template: str) -> AsyncGenerator[str]:
    """Another migrated PostgreSQL database."""
    yield await postgres.create("another_world", postgres_template)
    await postgres.drop("another_world")


# 3. Signature after parse.


async def a_forged_body_is_never_parsed(world: World, parsed: list[bytes]) -> None:
    caller = await submitted(world)
    for body in (b"[" * 100_000, b"not json", b'{"status": "Ready"}'):
        answer = await caller.call(body, {"x-bfl-signature": "sha256=00"})
        assert answer.status_code == 401
    assert parsed == []


async def test_parsing_a_body_before_its_verification_is_caught(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    read = messages.read_callback

    def reading(body: bytes) -> Report:
        parsed.append(body)
        return read(body)

    def verify_after_parsing(body: bytes, headers: Headers, secret: str, profile: SigningProfile) -> Verdict:
        reading(body)
        return verify(body, headers, secret, profile)

    monkeypatch.setattr(messages, "read_callback", reading)
    async with worlds() as world:
        await a_forged_body_is_never_parsed(world, parsed)
    monkeypatch.setattr(callback, "verify", verify_after_parsing)
    async with worlds() as world:
        with pytest.raises(AssertionError):
            await a_forged_body_is_never_parsed(world, parsed)


# 6. Dedup on row seen.


async def a_second_delivery_completes_the_first(world: World, handler: Receive, dies_after: int) -> None:
    caller = await submitted(world)
    await done(world)
    with pytest.raises(Dead):
        await delivered(with_database(world.use, Dying(world.use.db, dies_after)), caller, caller.ready(), handler)
    assert await delivered(world.use, caller, caller.ready(), handler) is Reply.ACCEPTED
    assert await status_of(world, caller) == "ready"


class Dead(Exception):
    """The process was killed here."""


@dataclass
class Dying(AnswersFirst):
    """A database whose process is killed after a number of commits, directly after the last one."""

    commits: int

    async def write(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> Any:
        if self.commits == 0:
            raise Dead
        self.commits -= 1
        done = await self.inner.write(work, *args, **kwargs)
        if self.commits == 0:
            raise Dead
        return done


async def receive_unless_seen(
    use: Resources, attempt_id: str, token: str, headers: Sequence[tuple[bytes, bytes]], read: Any
) -> Reply:
    """The usual handler: records the delivery, and treats it as a duplicate if it is already recorded."""
    proof = use.keys.prove_token(attempt_id, token)
    assert proof is not None
    body = await read(callback.MAX_BYTES)
    evidence = callback._evidence(use, attempt_id, proof, headers, body, verify(body, headers, proof.secret, SIGNING))
    digest = hashlib.sha256(body).hexdigest()
    new = await use.db.write(lambda connection: idempotency_keys.begin(connection, "seen", digest, digest, use.now()))
    if new:
        await use.db.write(lambda connection: settle(connection, [evidence], poll_after=callback._POLL_AFTER))
    return Reply.ACCEPTED


SIGNING = SigningProfile()


@pytest.mark.parametrize("dies_after", [0, 1])
async def test_taking_a_recorded_delivery_for_a_processed_one_is_caught(worlds: Worlds, dies_after: int) -> None:
    async with worlds() as world:
        await a_second_delivery_completes_the_first(world, receive, dies_after)
    if dies_after == 0:
        return  # nothing is recorded yet, so flaw and real code behave alike
    async with worlds() as world:
        with pytest.raises(AssertionError, match="submitted"):
            await a_second_delivery_completes_the_first(world, receive_unless_seen, dies_after)
