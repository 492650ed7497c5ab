"""`make attack`: send mutated callbacks to a running service over real sockets, and check that it accepts none.

The service runs as a process, with tasks that stay at the provider's twin. First a genuine callback of each profile is
accepted, which shows that the mutated ones start from valid ones. Prints the figures and each broken promise, and exits
with 1 if there is one.
"""

import argparse
import asyncio
import random  # noqa: TID251 - an attack is repeated by its seed
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app.security.keyring import KeyRing
from tests.proof.attack_mutations import KINDS, Shot, Target, body_of, genuine, shoot
from tests.proof.formation import RING_KEY, Formation, Service, form
from tests.proof.processes import free_port, playing_twin

MOST_GROWTH_MB = 64.0
_TASKS = 24  # the slots of an account
_NEVER_S = 86_400.0
_LANES = 24
_PROFILES = ("hmac", "hmac without prefix", "secret")
_ANSWER_S = 30.0
_SILENCE_S = 0.1  # what is incomplete is not answered
_WARM = 2000  # shots before memory is measured
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_PROVEN = {"signed", "shared_secret"}
UNANSWERED = 0  # the status of a shot without an answer


@dataclass(frozen=True, slots=True)
class Attack:
    count: int = 1_000_000
    seconds: float = 1200.0
    seed: int = 1
    database: Literal["sqlite", "postgres"] = "sqlite"


@dataclass
class Figures:
    """What was sent, what came back, and what the service and its tasks say afterwards."""

    sent: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    moved: int = 0
    server_errors: int = 0
    complaints: Counter[str] = field(default_factory=Counter)
    growth_mb: float = 0.0

    @property
    def broken(self) -> list[str]:
        """The promises that do not hold."""
        errors = self.server_errors + sum(count for status, count in self.statuses.items() if status >= 500)
        return [
            promise
            for promise, holds in (
                ("no mutated callback is accepted", not self.accepted),
                ("no mutated callback moves a task", not self.moved),
                ("no answer is a server error", not errors),
                ("the service logs no error", not self.complaints),
                (f"memory grows by less than {MOST_GROWTH_MB:.0f} MB", self.growth_mb < MOST_GROWTH_MB),
                ("each kind of mutation is sent", set(KINDS) <= set(self.kinds) or self.sent < _WARM),
            )
            if not holds
        ]


async def attack(plan: Attack, folder: Path) -> Figures:
    """Run the service in this folder and attack it."""
    rng = random.Random(plan.seed)  # noqa: S311 - repeats an attack
    port = free_port(rng)
    async with (
        playing_twin(port, plan.seed, _NEVER_S, folder / "twin.log") as twin,
        form(Formation(plan.database), folder, f"http://127.0.0.1:{port}", rng) as service,
        service.fleet.alive(),
    ):
        targets = await _targets(service, twin)
        address = urlsplit(str(service.api.base_url))
        storm = _Storm(plan, targets[len(_PROFILES) :], address.port or 0)
        for target, profile in zip(targets, _PROFILES, strict=False):
            await _accept(storm, genuine(target, body_of(rng, target, "Pending"), profile))
        before = await _read(service)
        states = await _states(service)
        await storm.go(_WARM)
        resident = _resident_mb(service)
        await storm.go(plan.count)
        figures = storm.figures
        figures.growth_mb = _resident_mb(service) - resident
        after = await _read(service)
        figures.verdicts = Counter(
            {verdict: after.verdicts[verdict] - before.verdicts[verdict] for verdict in after.verdicts}
        )
        figures.accepted = sum(figures.verdicts[verdict] for verdict in _PROVEN)
        figures.server_errors = after.server_errors
        figures.moved = sum(now != then for now, then in zip(await _states(service), states, strict=True))
        figures.complaints = service.fleet.complaints()
        return figures


class _Storm:
    """Sends shots on several connections until the count or the time is reached."""

    def __init__(self, plan: Attack, targets: list[Target], port: int) -> None:
        self.figures = Figures()
        self._plan, self._targets, self._port = plan, targets, port
        self._rng = random.Random(plan.seed)  # noqa: S311 - repeats an attack
        self._until = time.monotonic() + plan.seconds

    async def go(self, count: int) -> None:
        """Send shots until `count` were sent in all."""
        began = time.monotonic()
        shots = self._shots(count)
        async with asyncio.TaskGroup() as group:
            for number in range(_LANES):
                group.create_task(self._lane(f"127.0.2.{number + 1}", shots))
        self.figures.seconds += time.monotonic() - began

    def _shots(self, count: int) -> Iterator[Shot]:
        while self.figures.sent < min(count, self._plan.count) and time.monotonic() < self._until:
            target, other = self._rng.sample(self._targets, 2)
            shot = shoot(self._rng, target, other)
            self.figures.sent += 1
            self.figures.kinds[shot.kind] += 1
            yield shot

    async def _lane(self, source: str, shots: Iterator[Shot]) -> None:
        """Send shots from one address, so that the ports of none run out."""
        line: _Line | None = None
        for shot in shots:
            if shot.alone:
                single = await _Line.open(self._port, source)
                self.figures.statuses[await single.ask(shot.sent, _SILENCE_S)] += 1
                single.close()
                continue
            status = UNANSWERED
            while status == UNANSWERED:  # the service may have closed a kept connection before this shot
                fresh = line is None
                line = line or await _Line.open(self._port, source)
                status = await line.ask(shot.sent, _ANSWER_S)
                if line.is_over:
                    line.close()
                    line = None
                if fresh:
                    break
            self.figures.statuses[status] += 1
        if line is not None:
            line.close()

    async def accept(self, request: bytes) -> int:
        line = await _Line.open(self._port, "127.0.0.1")
        status = await line.ask(request, _ANSWER_S)
        line.close()
        return status


class _Line:
    """One connection. It is over when the service has closed it, or an answer did not come."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_over = False

    @classmethod
    async def open(cls, port: int, source: str) -> "_Line":
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))

    async def ask(self, request: bytes, seconds: float) -> int:
        """Return the status of the answer, or UNANSWERED."""
        try:
            self._writer.write(request)
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                head = await self._reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await self._reader.readexactly(int(length[1]) if length else 0)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            self.is_over = True
            return UNANSWERED
        self.is_over = b"connection: close" in head.lower()
        status = _STATUS.match(head)
        assert status is not None, head
        return int(status[1])

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()


async def _accept(storm: _Storm, request: bytes) -> None:
    status = await storm.accept(request)
    if status != 200:
        raise RuntimeError(f"a genuine callback was answered with {status}")


async def _targets(service: Service, twin: httpx.AsyncClient) -> list[Target]:
    """Post tasks, wait until the provider has accepted all, and return their callback addresses."""
    for number in range(_TASKS):
        (await service.api.post("/v1/tasks", json={"prompt": f"picture {number}"})).raise_for_status()
    async with asyncio.timeout(120):
        while (ledger := (await twin.get("/twin/ledger")).json())["accepted"] < _TASKS:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
        while (await _states(service)).count("submitted") < _TASKS:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
    ring = KeyRing((RING_KEY,))
    targets = []
    for entry in ledger["tasks"]:
        attempt_id, token = urlsplit(entry["webhook_url"]).path.split("/")[-2:]
        proof = ring.prove_token(attempt_id, token)
        assert proof is not None
        targets.append(Target(attempt_id.encode(), token.encode(), proof.secret.encode(), entry["id"]))
    return targets


async def _states(service: Service) -> list[str]:
    """Return the states of all tasks, always in the same order."""
    answer = (await service.api.get("/v1/tasks", params={"limit": 100})).raise_for_status().json()
    return [task["status"] for task in sorted(answer["tasks"], key=_id)]


def _id(task: dict[str, Any]) -> str:
    return str(task["id"])


@dataclass(frozen=True, slots=True)
class _Counted:
    verdicts: Counter[str]
    server_errors: int


async def _read(service: Service) -> _Counted:
    """Read the callbacks by verdict, and the answers of the server that are errors of its own."""
    verdicts: Counter[str] = Counter()
    errors = 0
    for family in text_string_to_metric_families((await service.api.get("/metrics")).raise_for_status().text):
        for sample in family.samples:
            if sample.name == "fluxhook_callbacks_total":
                verdicts[sample.labels["verdict"]] += int(sample.value)
            if sample.name == "fluxhook_http_request_seconds_count" and sample.labels["status"].startswith("5"):
                errors += int(sample.value)
    return _Counted(verdicts, errors)


def _resident_mb(service: Service) -> float:
    process = service.fleet.members[0].process
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) / 1024


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    plan = Attack(options.count, options.seconds, options.seed, options.db)
    with tempfile.TemporaryDirectory(prefix="fluxhook-attack-") as folder:
        figures = asyncio.run(attack(plan, Path(folder)))
    sys.stdout.write(report(figures))
    return 1 if figures.broken else 0


def report(figures: Figures) -> str:
    """Return the figures and the broken promises as lines."""
    rate = figures.sent / figures.seconds if figures.seconds else 0.0
    lines = [
        f"{figures.sent} mutated callbacks in {figures.seconds:.0f} s, {rate:.0f} a second",
        f"accepted {figures.accepted}, tasks moved {figures.moved}, server errors {figures.server_errors}",
        f"memory {figures.growth_mb:+.1f} MB",
        f"answers: {_listed(figures.statuses)} (0: none, the request is incomplete or the connection was closed)",
        f"verdicts: {_listed(figures.verdicts)}",
        f"mutations: {_listed(figures.kinds)}",
        *(f"BROKEN: {promise}" for promise in figures.broken),
        *(f"logged: {event}, {count} times" for event, count in figures.complaints.items()),
    ]
    return "\n".join(lines) + "\n"


def _listed(counts: Counter[Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make attack", description=__doc__)
    parser.add_argument("--count", type=int, default=Attack().count, help="number of mutated callbacks")
    parser.add_argument("--seconds", type=float, default=Attack().seconds, help="time after which it stops")
    parser.add_argument("--seed", type=int, default=Attack().seed, help="seed of the mutations")
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite", help="database engine")
    return parser


if __name__ == "__main__":
    sys.exit(main())
