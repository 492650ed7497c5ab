"""What every case of one database is given: the service, the servers beside it, and a hand that delivers callbacks."""

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

_WARM_S = 0.4  # until a process has loaded and prepared what it needs
_SPARE = 1.5  # times what the last measurement lets expect
_MOST_AT_ONCE = 60_000  # callbacks of one measurement: half a minute of seeding
_REFERENCE_TASKS = 4000  # more than the naive receiver gets through in a measurement

Sent: TypeAlias = tuple[Callback, bytes]  # a request, and the callback that it was made of
Another: TypeAlias = Callable[[], AbstractContextManager[str]]  # one more empty database: its address


@dataclass
class Stage:
    """All processes run from the first case to the last, so that the rounds of each may alternate."""

    ours: Ours
    bare: Process
    hmac: Process
    naive: Process
    drive: Drive
    reference_requests: Sequence[bytes]
    another: Another
    seconds: float  # of one measurement
    rounds: int
    pace: float = 500.0  # callbacks a second of ours, as far as is known
    acknowledged: int = 0
    unstored: int = 0

    def beside(self, server: Process, seconds: float | None = None, **how: object) -> Outcome:
        """One of the other servers under the same requests, again and again."""
        return self.drive.run(
            server.port, server.pid, self.reference_requests, seconds or self.seconds, repeat=True, **how
        )

    def full_load(self, seconds: float | None = None, **how: object) -> Outcome:
        """Ours with all connections busy, each callback for a task of its own."""
        seconds = seconds or self.seconds
        callbacks = self.ours.seed(min(_MOST_AT_ONCE, int(self.pace * _SPARE * seconds) + 500))
        outcome = self.deliver(signed(callbacks), seconds, **how)
        self.pace = outcome.rate
        return outcome

    def at_rate(self, rate: float, seconds: float | None = None, **how: object) -> Outcome:
        """Ours with callbacks that come when they come."""
        seconds = seconds or self.seconds
        return self.deliver(signed(self.ours.seed(int(rate * seconds * 1.2) + 50)), seconds, rate=rate, **how)

    def deliver(self, sent: Sequence[Sent], seconds: float, **how: object) -> Outcome:
        """Send these, and see that all that was acknowledged is stored."""
        outcome = self.drive.run(self.ours.port, self.ours.pid, [request for _, request in sent], seconds, **how)
        self.check([sent[number][0] for number in outcome.acknowledged])
        return outcome

    def check(self, acknowledged: Sequence[Callback]) -> None:
        self.acknowledged += len(acknowledged)
        self.unstored += self.ours.unstored(acknowledged)


def signed(callbacks: Sequence[Callback]) -> list[Sent]:
    return [(each, each.signed()) for each in callbacks]


@contextmanager
def set_up(
    name: str, another: Another, bare: Process, hmac: Process, folder: Path, drive: Drive, seconds: float, rounds: int
) -> Generator[Stage]:
    """Ours and the naive receiver started, at the same time, and all four warm; ended with the block."""
    signing_key_id = ids.new_key()
    imagined = imagine(KeyRing((signing_key_id,)), _REFERENCE_TASKS)
    task_ids = folder / "naive.ids"
    task_ids.write_text("\n".join(each.submission_id for each in imagined))
    with ExitStack() as stack:
        ours = Ours(name, folder, stack.enter_context(another()), signing_key_id)
        naive_url = stack.enter_context(another())
        stage = Stage(
            ours=stack.enter_context(ours.running()),
            naive=stack.enter_context(reference("naive", folder, [naive_url, str(task_ids)])),
            bare=bare,
            hmac=hmac,
            drive=drive,
            reference_requests=[each.for_reference() for each in imagined],
            another=another,
            seconds=seconds,
            rounds=rounds,
        )
        ours.await_answer()
        for server in (stage.naive, stage.hmac, stage.bare):
            if not server.is_warm:  # two of them stand beside both databases
                server.await_answer("/")
                stage.beside(server, _WARM_S)
                server.is_warm = True
        stage.full_load(_WARM_S)
        yield stage
