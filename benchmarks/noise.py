"""Noise beside what is measured: each kind is a load generator, a process of its own that gives way."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta

from app import clock
from benchmarks.drive import Drive, Outcome, Running
from benchmarks.ours import ADMIN_KEY, Ours
from benchmarks.submitting import post_request
from benchmarks.wire import request

LARGE_MODEL = "flux-kontext-max"  # the tasks of the downloads have this model, and only they
_POSTERS, _DOWNLOADS = 200, 24
_FORGED = 5000.0  # per second
_ADDRESSES = 200  # valid addresses that get forged callbacks
_EXPORTED = timedelta(days=180)
_MARGIN_S = 60.0  # noise may last this much longer, but is stopped sooner
_RAMP_S = 1.0  # noise before the measurement


@dataclass(frozen=True, slots=True)
class Noise:
    """What one generator sends, again and again; `rate` is a second, None: as fast as it gets answers."""

    requests: Sequence[bytes]
    connections: int
    rate: float | None = None


class Noises:
    """Makes the kinds of noise for one service; `key` is that of the noisy application."""

    def __init__(self, ours: Ours, key: str) -> None:
        self._ours, self._key, self._posts = ours, key, 0
        self._forged = [callback.forged() for callback in ours.seed(_ADDRESSES, moderated=True)]
        self.kinds: dict[str, Callable[[], Noise]] = {
            "listing": lambda: Noise([_read("/v1/tasks?limit=100")], 2, rate=1.0),
            "export": lambda: Noise(_exports(), 1),
            "forged": lambda: Noise(self._forged, 32, rate=_FORGED),
            "downloads": lambda: Noise([self._post(LARGE_MODEL, {"prefer": "wait=60"})], _DOWNLOADS),
            "posts": lambda: Noise([self._post()], _POSTERS),
        }

    def _post(self, model: str | None = None, headers: dict[str, str] | None = None) -> bytes:
        self._posts += 1  # a repeated request of a generator that was stopped would join its tasks
        fields = {"prompt": f"{self._posts} quiet harbours in the morning, " * 30}
        return post_request(fields | ({} if model is None else {"model": model}), self._key, headers or {})


def _exports() -> list[bytes]:
    """Return requests for the usage of all tasks of the database by day, key and model, as CSV and as JSON."""
    begin = (clock.utc_now() - _EXPORTED).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [_read(f"/v1/usage?from={begin}&by=day&by=key&by=model&format={form}") for form in ("csv", "json")]


def _read(path: str) -> bytes:
    return request("GET", path, {"authorization": f"Bearer {ADMIN_KEY}", "accept": "*/*"})


@contextmanager
def noise(drive: Drive, port: int, noises: Sequence[Noise], seconds: float) -> Generator[list[Running]]:
    """Run these kinds of noise at once until the block ends, which takes about `seconds`; begin a second before it."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                drive.start(
                    port,
                    each.requests,
                    seconds + _MARGIN_S,
                    connections=each.connections,
                    rate=each.rate,
                    repeat=True,
                    gives_way=True,
                    grace_s=0.5,
                )
            )
            for each in noises
        ]
        for generator in running:
            generator.await_first()
        time.sleep(_RAMP_S if running else 0)
        yield running


def finished(running: Sequence[Running]) -> list[Outcome]:
    """Stop the generators, and return their outcomes."""
    return [generator.finish() for generator in running]
