"""The setting of all cases of one database: the service, the reference servers, and the delivery of callbacks."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from app import ids
from app.security.keyring import KeyRing
from benchmarks.drive import Drive, Outcome
from benchmarks.ours import Ours
from benchmarks.processes import Process
from benchmarks.reference import reference
from benchmarks.seed import Callback, imagine

_WARM_S = 0.4  # load before the first measurement of a process
_SPARE = 1.5  # seeded callbacks, as a multiple of those that the last rate needs
_MOST_AT_ONCE = 60_000  # callbacks of one measurement, which take half a minute to seed
_REFERENCE_TASKS = 4000  # more than the naive receiver handles in one measurement

Sent: TypeAlias = tuple[Callback, bytes]  # a callback, and a request made from it
Another: TypeAlias = Callable[[], AbstractContextManager[str]]  # yields the address of a new, empty database


@dataclass
class Stage:
    """The processes of one database. All run from the first case to the last, so rounds can alternate."""

    ours: Ours
    bare: Process
    hmac: Process
    naive: Process
    drive: Drive
    reference_requests: Sequence[bytes]
    another: Another
    seconds: float  # of one measurement
    rounds: int
    pace: float = 500.0  # callbacks per second of the service in the last measurement
    acknowledged: int = 0
    unstored: int = 0

    def beside(self, server: Process, seconds: float | None = None, **fields: object) -> Outcome:
        """Measure a reference server with all connections busy, repeating the same requests."""
        return self.drive.run(
            server.port, server.pid, self.reference_requests, seconds or self.seconds, repeat=True, **fields
        )

    def full_load(self, seconds: float | None = None, **fields: object) -> Outcome:
        """Measure the service with all connections busy, each callback for a different task."""
        seconds = seconds or self.seconds
        callbacks = self.ours.seed(min(_MOST_AT_ONCE, int(self.pace * _SPARE * seconds) + 500))
        outcome = self.deliver(signed(callbacks), seconds, **fields)
        self.pace = outcome.rate
        return outcome

    def at_rate(self, rate: float, seconds: float | None = None, **fields: object) -> Outcome:
        """Measure the service with callbacks at random times, `rate` per second on average."""
        seconds = seconds or self.seconds
        return self.deliver(signed(self.ours.seed(int(rate * seconds * 1.2) + 50)), seconds, rate=rate, **fields)

    def deliver(self, sent: Sequence[Sent], seconds: float, **fields: object) -> Outcome:
        """Send these requests to the service, and check that every acknowledged callback is stored."""
        outcome = self.drive.run(self.ours.port, self.ours.pid, [request for _, request in sent], seconds, **fields)
        self.check([sent[number][0] for number in outcome.acknowledged])
        return outcome

    def check(self, acknowledged: Sequence[Callback]) -> None:
        """Count the acknowledged callbacks, and those of them that are not stored."""
        self.acknowledged += len(acknowledged)
        self.unstored += self.ours.unstored(acknowledged)


def signed(callbacks: Sequence[Callback]) -> list[Sent]:
    return [(callback, callback.signed()) for callback in callbacks]


@contextmanager
def set_up(
    name: str, another: Another, bare: Process, hmac: Process, folder: Path, drive: Drive, seconds: float, rounds: int
) -> Generator[Stage]:
    """Start the service and the naive receiver together, warm all four servers up, and stop both after the block."""
    signing_key_id = ids.new_key()
    imagined = imagine(KeyRing((signing_key_id,)), _REFERENCE_TASKS)
    task_ids = folder / "naive.ids"
    task_ids.write_text("\n".join(callback.attempt_id for callback in imagined))
    with ExitStack() as stack:
        ours = Ours(name, folder, stack.enter_context(another()), signing_key_id)
        naive_url = stack.enter_context(another())
        stage = Stage(
            ours=stack.enter_context(ours.running()),
            naive=stack.enter_context(reference("naive", folder, [naive_url, str(task_ids)])),
            bare=bare,
            hmac=hmac,
            drive=drive,
            reference_requests=[callback.for_reference() for callback in imagined],
            another=another,
            seconds=seconds,
            rounds=rounds,
        )
        ours.await_answer()
        for server in (stage.naive, stage.hmac, stage.bare):
            if not server.is_warm:  # two of them serve for both databases
                server.await_answer("/")
                stage.beside(server, _WARM_S)
                server.is_warm = True
        stage.full_load(_WARM_S)
        yield stage
