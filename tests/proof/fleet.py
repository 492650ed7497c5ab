"""The processes of the service on one database, which are killed and restarted repeatedly."""

import asyncio
import json
import random  # noqa: TID251 - a storm is repeated by its seed
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from app.clock import utc_now
from benchmarks.postgres_server import Server
from tests.proof.processes import answers, end, start

_READY_S = 240  # all processes start at once
_SHOWN = 3000  # characters of the log of a process that ended by itself
_AWAY_S = (0.5, 2.0)  # downtime of one of several processes, and of the database
_NO_DATABASE = ("fluxhook: the database ", "fluxhook: all connections ")
_DATABASE_EVERY = 12  # every how many kills the database is killed instead


@dataclass
class Member:
    """One process of the service; a worker is ready when its heartbeat file exists, an API when it answers."""

    arguments: Sequence[str]
    env: Mapping[str, str]
    log: Path
    api: httpx.AsyncClient | None = None
    process: asyncio.subprocess.Process | None = None
    ready: bool = False
    log_began: int = 0  # the length of the log in bytes when the process started

    @property
    def heartbeat(self) -> Path:
        return self.log.with_suffix(".heartbeat")

    async def start(self) -> None:
        await self._start(self.env)

    async def restart(self, env: Mapping[str, str]) -> None:
        """Stop the process by SIGTERM, start it with these settings, and wait until it works."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()
        await self._start(env)
        await self.is_ready()
        self.heartbeat.unlink(missing_ok=True)  # a worker touches it when it starts, and again while it works
        await self.is_ready()

    async def end(self) -> bool:
        """Kill the process; return False if it had ended already."""
        assert self.process is not None
        was_alive = self.process.returncode is None
        await end(self.process)
        return was_alive

    async def _start(self, env: Mapping[str, str]) -> None:
        self.ready = False
        self.log_began = self.log.stat().st_size if self.log.exists() else 0
        self.heartbeat.unlink(missing_ok=True)
        self.process = await start(self.arguments, env, self.log)

    async def is_ready(self) -> bool:
        """Wait until the process is ready; return False if it ends instead."""
        assert self.process is not None
        if self.api is not None:
            self.ready = await answers(self.api, self.process)
            return self.ready
        while self.process.returncode is None and not self.heartbeat.exists():  # noqa: ASYNC110 - another process makes the file
            await asyncio.sleep(0.05)
        self.ready = self.process.returncode is None
        return self.ready

    @property
    def missed_the_database(self) -> bool:
        """Whether the process ended because it could not use the database, and had done no more than to migrate it."""
        *before, last = self.logged.splitlines() or [""]
        return last.startswith(_NO_DATABASE) and all(_read(line).get("event") == "schema_migrated" for line in before)

    @property
    def logged(self) -> str:
        """What the process has written since its start."""
        with self.log.open("rb") as log:
            log.seek(self.log_began)
            return log.read().decode(errors="replace")


@dataclass
class Fleet:
    """All processes of the service, and the database server if it may be killed."""

    members: Sequence[Member]
    database: Server | None = None
    kills: list[datetime] = field(default_factory=list)
    database_kills: list[datetime] = field(default_factory=list)
    ended_by_itself: int = 0
    turned_away: int = 0  # starts that ended because the database was down, or too slow for their time limit

    @asynccontextmanager
    async def alive(self) -> AsyncGenerator[None]:
        """Start all processes at once; kill them after the block."""
        try:
            await asyncio.gather(*(member.start() for member in self.members))
            await self.all_ready()
            yield
        finally:
            await asyncio.gather(*(member.end() for member in self.members if member.process is not None))

    async def all_ready(self) -> None:
        async with asyncio.timeout(_READY_S):
            while not all(await asyncio.gather(*(member.is_ready() for member in self.members))):
                await self._revive()

    async def kill_at_random(
        self, rng: random.Random, lifetime_s: tuple[float, float], calm: asyncio.Event, max_kills: int | None
    ) -> None:
        """Kill one process after another, and sometimes the database, until `calm` is set; then restart all."""
        for number in count(1):
            await _wait_at_most(rng.uniform(*lifetime_s), calm)
            if max_kills is not None and number > max_kills:
                await calm.wait()
            await self._revive()
            if calm.is_set():
                break
            if self.database is not None and number % _DATABASE_EVERY == 0:
                await self._kill_database(self.database, rng)
            else:
                await self._kill(rng.choice(self.members), rng)
        await self.all_ready()

    async def _kill(self, member: Member, rng: random.Random) -> None:
        if await member.end():
            self.kills.append(utc_now())
        if len(self.members) > 1:
            await asyncio.sleep(rng.uniform(*_AWAY_S))
            await member.start()
        else:  # the only process: its lifetime counts from its first answer
            await member.start()
            await self.all_ready()

    async def _kill_database(self, server: Server, rng: random.Random) -> None:
        await asyncio.to_thread(server.kill)
        self.database_kills.append(utc_now())
        await asyncio.sleep(rng.uniform(*_AWAY_S))
        await asyncio.to_thread(server.start)

    async def _revive(self) -> None:
        """Restart and count the processes that ended without a kill, as a supervisor would."""
        for member in self.members:
            if member.process is not None and member.process.returncode is not None:
                if member.missed_the_database:
                    self.turned_away += 1
                else:
                    self.ended_by_itself += 1
                    code, logged = member.process.returncode, member.logged
                    # Shown if the test fails; its folder is deleted.
                    sys.stderr.write(f"{' '.join(member.arguments)} ended with {code}:\n{logged[-_SHOWN:]}\n")
                await member.start()

    def complaints(self) -> Counter[str]:
        """Count the log events of level error and critical, by event."""
        lines = (line for member in self.members for line in member.log.read_text(errors="replace").splitlines())
        events = map(_read, lines)
        return Counter(str(event.get("event")) for event in events if event.get("level") in {"error", "critical"})


def _read(line: str) -> dict[str, Any]:
    """Parse a line of the log; return an empty event if a kill truncated it or it is not an event."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


async def _wait_at_most(seconds: float, calm: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await calm.wait()
    except TimeoutError:
        return
