"""Twenty accounts on PostgreSQL: two APIs with three workers, and one process that does both, in turns.

All of them, the twin, the application and the server share this machine, so its CPUs bound the rate of both.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks import processes
from benchmarks.applications import Application, Client, application
from benchmarks.databases import server_process
from benchmarks.figures import median
from benchmarks.ours import ADMIN_KEY, Ours
from benchmarks.slow_flush import LeftOut
from benchmarks.stage import Stage

_ACCOUNTS, _SLOTS = 20, 24  # slots of each account
_READY_S = 3.0  # the provider's own time
_CLIENTS = 96  # that post the next task as soon as one is answered
_ACCOUNT = """
[[accounts]]
name = "account{number}"
kind = "bfl"
base_url = "{twin}"
key_env = "BENCH_KEY_{number}"
slots = {slots}
slots_by_model = {{ flux-kontext-pro = {slots} }}
"""
_HEADERS = {"authorization": f"Bearer {ADMIN_KEY}"}


@dataclass(frozen=True, slots=True)
class Formation:
    """Processes of one service: the ports of those with an API, and the ids of all."""

    ports: Sequence[int]
    pids: Sequence[int]

    def cpu_seconds(self) -> float:
        return sum(processes.cpu_seconds(pid) for pid in self.pids)


def scale_out(stage: Stage) -> dict[str, float]:
    """Measure tasks a second and CPU for each task, of both formations."""
    if stage.ours.url.startswith("sqlite:"):
        raise LeftOut("on SQLite there is one process")
    folder = stage.ours.folder / "scale"
    folder.mkdir()
    figures: dict[str, float] = {}
    with processes.running(["benchmarks.servers", "twin", str(_READY_S), "0.1"], folder / "twin.log") as twin:
        twin.await_answer()
        for name, roles in {"one": ["serve"], "five": ["api", "api", "work", "work", "work"]}.items():
            with stage.another() as url, _running(stage, folder / name, url, twin.port, roles) as formation:
                rates, own, database = asyncio.run(_measured(stage, formation, url))
            figures[f"{name}_tasks_per_s"] = median(rates)
            figures |= {f"{name}_cpu_ms": own, f"{name}_cpu_database_ms": database}
    figures["five_times_one"] = figures["five_tasks_per_s"] / figures["one_tasks_per_s"]
    return figures


@contextmanager
def _running(stage: Stage, folder: Path, url: str, twin: int, roles: Sequence[str]) -> Generator[Formation]:
    folder.mkdir()
    config = folder / "fluxhook.toml"
    accounts = range(_ACCOUNTS)
    config.write_text(
        "".join(_ACCOUNT.format(number=number, twin=f"http://127.0.0.1:{twin}", slots=_SLOTS) for number in accounts)
    )
    env = {"FLUXHOOK_CONFIG": str(config), "FLUXHOOK_EGRESS_ALLOW": "127.0.0.0/8"}
    env |= {f"BENCH_KEY_{number}": f"key-{number}" for number in accounts}
    env |= {f"FLUXHOOK_LIMIT_{name}": "100000" for name in ("POSTS_PER_MINUTE", "QUEUED", "DELIVERIES")}
    apis: list[Ours] = []
    started: list[Ours] = []
    with ExitStack() as stack:
        for number, role in enumerate(roles):
            own = {**env}
            if role == "work":
                own["FLUXHOOK_PUBLIC_URL"] = f"http://127.0.0.1:{apis[number % len(apis)].port}"
            arguments = {"serve": ("serve",), "api": ("serve", "--no-worker"), "work": ("work",)}[role]
            process = Ours(f"{role}{number}", folder, url, stage.ours.signing_key_id, env=own, arguments=arguments)
            started.append(stack.enter_context(process.running()))
            if role != "work":
                process.await_answer()
                apis.append(process)
        yield Formation([api.port for api in apis], [process.pid for process in started])


async def _measured(stage: Stage, formation: Formation, url: str) -> tuple[list[float], float, float]:
    """Return the tasks a second of each round, and the CPU milliseconds of a task: ours, and the database's."""
    count = max(_CLIENTS, round(_ACCOUNTS * _SLOTS * stage.seconds / 3))
    server = await server_process(url)
    rates: list[float] = []
    async with application() as app:
        await _through(app, formation, _CLIENTS // 4)
        own, database = formation.cpu_seconds(), _cpu_of(server)
        for _ in range(stage.rounds):
            seconds = await _through(app, formation, count)
            rates.append(count / seconds)
        tasks = count * stage.rounds
        return rates, 1000 * (formation.cpu_seconds() - own) / tasks, 1000 * (_cpu_of(server) - database) / tasks


async def _through(app: Application, formation: Formation, count: int) -> float:
    """Post this many tasks. Return the seconds until the last webhook, without the provider's time of one task."""
    numbers = iter(range(count))
    posted: list[str] = []

    async def client_loop(port: int) -> None:
        client = Client(port, _HEADERS)
        for number in numbers:
            task_id = await client.post({"prompt": f"picture {number}", "webhook_url": app.url})
            posted.append(task_id)
        client.close()

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(_CLIENTS):
            group.create_task(client_loop(formation.ports[number % len(formation.ports)]))
    last = max([await app.webhook_of(task_id) for task_id in posted])
    return last - began - _READY_S


def _cpu_of(server: int | None) -> float:
    return 0.0 if server is None else processes.cpu_seconds_with_children(server)
