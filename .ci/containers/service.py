"""The service as docker-compose.yml brings it up, and how it is talked to: over loopback, and to its twin directly."""

import hashlib
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from functools import partial
from typing import Any

from containers.commands import docker, env, fail, inspect, wait

ADMIN_KEY = "container-check"
PROFILES = ["--profile", "twin", "--profile", "scale"]
# A job whose worker is gone is missed after 30 s, and then there is the work itself.
LONGEST_S = 90


def compose(*arguments: str) -> str:
    return docker("compose", *PROFILES, *arguments)


def configure() -> None:
    """What the README has people write into `.env`, for the twin; ports that are free."""
    env.update(
        FLUXHOOK_PORT=_free_port(),
        API_2_PORT=_free_port(),
        FLUXHOOK_ADMIN_KEY=ADMIN_KEY,
        FLUXHOOK_SECRET_KEYS="container-check" * 3,
        FLUXHOOK_BFL_API_KEY="demo",
        FLUXHOOK_BFL_BASE_URL="http://twin:8090",
        FLUXHOOK_PUBLIC_URL="http://api:8080",
        POSTGRES_PASSWORD="c@ntainer:/check",
    )


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


def bring_up(undo: ExitStack) -> None:
    undo.callback(compose, "down", "--volumes", "--timeout", "5")
    undo.callback(lambda: show_logs() if sys.exc_info()[0] else None)
    compose("up", "--detach", "--no-build")


def show_logs() -> None:
    """The latest lines, without those of requests that went well: they are many."""
    lines = compose("logs", "--no-color", "--tail", "200").splitlines()
    print(*(line for line in lines if '"status": 20' not in line), sep="\n")


def container(service: str) -> str:
    return compose("ps", "--all", "--quiet", service)


def wait_healthy(*services: str) -> None:
    for service in services:
        wait(f"{service} is healthy", 60, partial(is_healthy, container(service)))


def is_healthy(its: str) -> bool:
    return inspect(its, "{{.State.Health.Status}}") == "healthy"


def die(service: str) -> None:
    """`kill -9` from outside, as a crash is: what its restart policy says then happens."""
    its = container(service)
    before = int(inspect(its, "{{.RestartCount}}"))
    os.kill(int(inspect(its, "{{.State.Pid}}")), signal.SIGKILL)
    wait(f"{service} is started again", 20, lambda: int(inspect(its, "{{.RestartCount}}")) > before)


def ask(path: str, body: dict[str, Any] | None = None, port: str = "FLUXHOOK_PORT") -> tuple[int, bytes]:
    return _call(f"http://127.0.0.1:{env[port]}{path}", body)


def _call(url: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ready() -> bool:
    return ask("/readyz")[0] == 200


def post(prompt: str, **params: str) -> str:
    status, answer = ask("/v1/tasks", {"prompt": prompt, **params})
    if status != 202:
        fail(f"a task was answered with {status}: {answer.decode()[:300]}")
    return json.loads(answer)["id"]


def read_task(task_id: str) -> dict[str, Any]:
    status, answer = ask(f"/v1/tasks/{task_id}")
    if status != 200:
        fail(f"{task_id} was answered with {status}: {answer.decode()[:300]}")
    return json.loads(answer)


def count(task_ids: list[str], *statuses: str) -> int:
    """How many of these tasks are in one of these states; one that failed ends the check."""
    found = [read_task(task_id) for task_id in task_ids]
    for task in found:
        if task["status"] in ("failed", "cancelled"):
            fail(f"a task did not succeed: {task}")
    return sum(task["status"] in statuses for task in found)


def wait_stored(task_ids: list[str]) -> None:
    wait("every task is stored", LONGEST_S, lambda: count(task_ids, "stored") == len(task_ids))


def image(task_id: str) -> bytes:
    return ask(f"/v1/tasks/{task_id}/image")[1]


def is_whole(task_id: str) -> bool:
    """Whether the image has the digest it says, which is one that the provider says it made."""
    said = read_task(task_id)["image"]["sha256"]
    made = {task["sha256"] for task in ledger()["tasks"]}
    return hashlib.sha256(image(task_id)).hexdigest() == said and said in made


def ledger() -> dict[str, Any]:
    """What the provider's twin accepted and charged; its port is not published, its address can be reached."""
    address = inspect(container("twin"), "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    return json.loads(_call(f"http://{address}:8090/twin/ledger")[1])
