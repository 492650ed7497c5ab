"""Genuine callbacks and small posts beside noisy neighbours: their latency with and without each kind of noise.

The callbacks report moderated results: at their rate, the images of others would be the noise. All processes share the
machine, so each ratio includes the competition for its CPUs; the noise and the twins give way to the service.
"""

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import httpx

from benchmarks import processes
from benchmarks.drive import Outcome
from benchmarks.figures import percentile
from benchmarks.noise import LARGE_MODEL, Noises, finished, noise
from benchmarks.ours import ADMIN_KEY, Ours
from benchmarks.processes import Process, cpu_seconds
from benchmarks.retention import fill
from benchmarks.stage import Sent, Stage, signed
from benchmarks.submitting import post_request

KINDS = ("listing", "export", "forged", "downloads", "posts")  # in this order: posts leave a long queue
ALL, _QUIET = "all", "quiet"
_PHASES = {_QUIET: (), **{kind: (kind,) for kind in KINDS}, ALL: KINDS}
_CALLBACKS, _POSTS = 25, 5  # per second
_CONNECTIONS = 64  # of the measured callbacks, and of the measured posts
_GROWN = 20_000  # finished tasks, which the listing and the export read
_READY_S = 0.5  # the provider's own time of a small task; a large one takes twice as long
_SMALL_MEGAPIXELS = 0.1
_WARM_S = 2.0
_MAX_S = 120.0
_OPEN = ("queued", "submitting", "submitted", "ready")
_ACCOUNT = """
[[accounts]]
name = "{name}"
kind = "bfl"
base_url = "http://127.0.0.1:{port}"
key_env = "FLUXHOOK_BFL_API_KEY_{number}"
slots = 24
slots_by_model = {{ {model} = 24 }}
models = ["{model}"]
"""


@dataclass
class Seen:
    """What was measured during one phase, over all rounds."""

    callbacks: list[float] = field(default_factory=list)  # latencies in seconds
    posts: list[float] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)  # answers a second of each kind of noise, by round
    seconds: float = 0.0
    service_s: float = 0.0  # CPU seconds of the service,
    noise_s: float = 0.0  # of the generators of the noise,
    twins_s: float = 0.0  # of the twins,
    own_s: float = 0.0  # and of the generators of what is measured
    failed: int = 0  # measured requests with another answer than the usual one


def neighbours(stage: Stage) -> dict[str, float]:
    """Measure the quiet phase, each kind of noise, and all kinds at once; a round has a new service and database."""
    seen = {phase: Seen() for phase in _PHASES}
    for number in range(stage.rounds):
        folder = stage.ours.folder / f"neighbours{number}"
        folder.mkdir()
        with _running(stage, folder) as (service, twins):
            _round(stage, service, twins, seen)
    return figures(seen)


@contextmanager
def _running(stage: Stage, folder: Path) -> Generator[tuple[Ours, Sequence[Process]]]:
    """Run a twin for small results, one for large ones, and the service with its worker on a database with history."""
    small = processes.running(
        ["benchmarks.servers", "twin", str(_READY_S), str(_SMALL_MEGAPIXELS)], folder / "small.log", gives_way=True
    )
    large = processes.running(["benchmarks.servers", "twin", str(2 * _READY_S)], folder / "large.log", gives_way=True)
    with small as small_twin, large as large_twin, stage.another() as url:
        asyncio.run(fill(url, _GROWN))
        twins = (small_twin, large_twin)
        env = {"FLUXHOOK_CONFIG": str(folder / "fluxhook.toml"), "FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8"}
        env |= {"FLUXHOOK_LIMIT_QUEUED": "1000000"}
        accounts = ""
        for number, (twin, model) in enumerate(zip(twins, ("flux-kontext-pro", LARGE_MODEL), strict=True)):
            twin.await_answer()
            env[f"FLUXHOOK_BFL_API_KEY_{number}"] = f"provider-key-{number}"
            accounts += _ACCOUNT.format(name=f"account{number}", number=number, port=twin.port, model=model)
        (folder / "fluxhook.toml").write_text(accounts)
        service = Ours("neighbours", folder, url, stage.ours.signing_key_id, env=env, arguments=("serve",))
        with service.running():
            service.await_answer()
            yield service, twins


def _round(stage: Stage, service: Ours, twins: Sequence[Process], seen: dict[str, Seen]) -> None:
    inner = replace(stage, ours=service, acknowledged=0, unstored=0)
    base, headers = f"http://127.0.0.1:{service.port}", {"authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=base, headers=headers, timeout=60, trust_env=False) as client:
        quiet, noisy = (_key(client, name) for name in ("quiet", "noisy"))
        noises = Noises(service, noisy)
        _measure(inner, quiet, _callbacks(inner, _WARM_S), _WARM_S)
        for phase, kinds in _PHASES.items():
            _measure_phase(inner, quiet, [(kind, noises) for kind in kinds], twins, seen[phase])
            if phase == "downloads":
                _await_end_of_large(client)
    stage.acknowledged += inner.acknowledged
    stage.unstored += inner.unstored


def _measure_phase(
    stage: Stage, key: str, kinds: Sequence[tuple[str, Noises]], twins: Sequence[Process], seen: Seen
) -> None:
    seconds = 2 * stage.seconds
    made = [noises.kinds[kind]() for kind, noises in kinds]
    sent = _callbacks(stage, seconds)  # before the noise, because a second process that writes would add to it
    with noise(stage.drive, stage.ours.port, made, seconds) as running:
        began, service_s, twins_s = time.monotonic(), cpu_seconds(stage.ours.pid), _cpu_of(twins)
        callbacks, posts = _measure(stage, key, sent, seconds)
        seen.seconds += time.monotonic() - began
        seen.service_s += cpu_seconds(stage.ours.pid) - service_s
        seen.twins_s += _cpu_of(twins) - twins_s
        outcomes = finished(running)
    seen.callbacks += callbacks.latencies
    seen.posts += posts.latencies
    seen.own_s += callbacks.own_cpu_s + posts.own_cpu_s
    seen.failed += len(callbacks.statuses) - callbacks.counts[200] + len(posts.statuses) - posts.counts[202]
    for (kind, _), outcome in zip(kinds, outcomes, strict=True):
        seen.noise_s += outcome.own_cpu_s
        seen.rates.setdefault(kind, []).append(outcome.rate)


def _callbacks(stage: Stage, seconds: float) -> Sequence[Sent]:
    return signed(stage.ours.seed(int(_CALLBACKS * seconds * 1.2) + 50, moderated=True))


def _measure(stage: Stage, key: str, sent: Sequence[Sent], seconds: float) -> tuple[Outcome, Outcome]:
    """Send callbacks and posts at the same time, each at its rate."""
    post = post_request({"prompt": "a quiet harbour in the morning"}, key)
    fields = {"rate": float(_POSTS), "connections": _CONNECTIONS, "repeat": True}
    with stage.drive.start(stage.ours.port, [post], seconds, **fields) as posting:
        posting.await_first()
        outcome = stage.deliver(sent, seconds, rate=float(_CALLBACKS), connections=_CONNECTIONS)
        return outcome, posting.outcome()


def _key(client: httpx.Client, name: str) -> str:
    """Return the key of a new application."""
    key: str = client.post("/v1/keys", json={"name": name}).raise_for_status().json()["key"]
    return key


def _await_end_of_large(client: httpx.Client) -> None:
    """Wait until no large task is in progress, so that the next phase begins without it."""
    query: dict[str, str | Sequence[str]] = {"model": LARGE_MODEL, "status": _OPEN, "limit": "1"}
    until = time.monotonic() + _MAX_S
    while client.get("/v1/tasks", params=query).raise_for_status().json()["tasks"] and time.monotonic() < until:
        time.sleep(0.2)


def _cpu_of(twins: Sequence[Process]) -> float:
    return sum(cpu_seconds(twin.pid) for twin in twins)


def figures(seen: dict[str, Seen]) -> dict[str, float]:
    """Return the ratios first: of all kinds at once, then of each kind."""
    shown: dict[str, float] = {}
    quiet = seen[_QUIET]
    for phase in (ALL, *KINDS):
        end = "" if phase == ALL else f"_{phase}"
        for name, beside, alone in (
            ("callbacks", seen[phase].callbacks, quiet.callbacks),
            ("posts", seen[phase].posts, quiet.posts),
        ):
            shown[f"neighbour_{name}_times_p99{end}"] = percentile(beside, 0.99) / percentile(alone, 0.99)
    for phase, found in seen.items():
        for name, latencies in (("callbacks", found.callbacks), ("posts", found.posts)):
            shown[f"neighbour_{name}_p50_ms_{phase}"] = 1000 * percentile(latencies, 0.5)
            shown[f"neighbour_{name}_p99_ms_{phase}"] = 1000 * percentile(latencies, 0.99)
        shown[f"neighbour_service_cpus_{phase}"] = found.service_s / found.seconds
    for phase in (*KINDS, ALL):
        end = "_of_all" if phase == ALL else ""
        shown |= {f"neighbour_{kind}_rate{end}": mean(rates) for kind, rates in seen[phase].rates.items()}
    total = seen[ALL]
    shown["neighbour_noise_cpus_all"] = total.noise_s / total.seconds
    shown["neighbour_twin_cpus_all"] = total.twins_s / total.seconds
    shown["neighbour_generator_cpus_all"] = total.own_s / total.seconds
    shown["neighbour_unanswered"] = sum(found.failed for found in seen.values())
    return shown
