"""Faults between the processes of the service and PostgreSQL."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import asyncpg  # type: ignore[import-untyped]

from app.clock import utc_now
from tests.postgres_proxy import Proxy
from tests.proof.formation import Service

_LIBFAKETIME = "*/faketime/libfaketime.so.1"
_LOCK_ACCOUNTS = "SELECT FROM accounts FOR UPDATE"
_TAKE_A_TRANSACTION_ID = "SELECT pg_current_xact_id()"  # an open transaction without one holds back no event
_SLOW_S = 0.1  # for each direction: 200 ms for a round trip
_EVERY_THIRD = 3


@dataclass(frozen=True, slots=True)
class Played:
    """A fault, and when it was played."""

    name: str
    began_at: datetime
    ended_at: datetime


@asynccontextmanager
async def played(service: Service, name: str) -> AsyncGenerator[Callable[[], Played]]:
    """Play a fault during the block. Yields a function that returns when it was, until now."""
    async with _FAULTS[name].play(service):
        began_at = utc_now()
        yield lambda: Played(name, began_at, utc_now())


def seconds(name: str) -> float:
    """Return how long a fault lasts in a storm."""
    return _FAULTS[name].seconds


def missing() -> str | None:
    """Return what this machine lacks for the faults, or None."""
    return None if _faketime() else "libfaketime is not installed"


@asynccontextmanager
async def _silent(service: Service) -> AsyncGenerator[None]:
    """All packets are lost. Afterwards the connections of that time stay silent, and new ones work."""
    _proxy(service).silence(new_connections=True)
    try:
        yield
    finally:
        _proxy(service).silence()


@asynccontextmanager
async def _cut_commits(service: Service) -> AsyncGenerator[None]:
    """The answer to every third commit is lost, and its connection with it."""
    _proxy(service).cut_every = _EVERY_THIRD
    try:
        yield
    finally:
        _proxy(service).cut_every = 0


@asynccontextmanager
async def _slow(service: Service) -> AsyncGenerator[None]:
    """A round trip takes 200 ms."""
    _proxy(service).delay_s = _SLOW_S
    try:
        yield
    finally:
        _proxy(service).delay_s = 0


@asynccontextmanager
async def _timeouts(service: Service) -> AsyncGenerator[None]:
    """One API and one worker have a low limit for statements, and the accounts are locked for longer than that."""
    async with _changed(service, {"FLUXHOOK_STATEMENT_SECONDS": "1"}), _transaction(service, _LOCK_ACCOUNTS):
        yield


@asynccontextmanager
async def _skewed_clock(service: Service) -> AsyncGenerator[None]:
    """The clocks of one API and one worker are an hour ahead."""
    env = {"LD_PRELOAD": str(_faketime()), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    async with _changed(service, env):
        yield


@asynccontextmanager
async def _open_transaction(service: Service) -> AsyncGenerator[None]:
    """A transaction of another program stays open, so readers of the feed get no new events."""
    async with _transaction(service, _TAKE_A_TRANSACTION_ID):
        yield


class _Fault(NamedTuple):
    seconds: float
    play: Callable[[Service], AbstractAsyncContextManager[None]]


_FAULTS: Mapping[str, _Fault] = {
    "silent connections": _Fault(30, _silent),
    "lost commit answers": _Fault(15, _cut_commits),
    "slow network": _Fault(20, _slow),
    "statement timeouts": _Fault(10, _timeouts),
    "skewed clock": _Fault(20, _skewed_clock),
    "open transaction": _Fault(30, _open_transaction),
}
NAMES = tuple(_FAULTS)


@asynccontextmanager
async def _changed(service: Service, env: Mapping[str, str]) -> AsyncGenerator[None]:
    """Restart one API and one worker with these settings; afterwards, restart them with their own."""
    members = service.fleet.members[0], service.fleet.members[-1]
    for member in members:
        await member.restart({**member.env, **env})
    try:
        yield
    finally:
        for member in members:
            await member.restart(member.env)


@asynccontextmanager
async def _transaction(service: Service, statement: str) -> AsyncGenerator[None]:
    """Keep a transaction open that has run this statement, past the proxy."""
    connection = await asyncpg.connect(service.database_url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


def _proxy(service: Service) -> Proxy:
    assert service.proxy is not None
    return service.proxy


def _faketime() -> str | None:
    return next(map(str, Path("/usr/lib").glob(_LIBFAKETIME)), None)
