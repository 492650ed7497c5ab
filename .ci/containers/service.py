"""Start the service with docker-compose.yml and call it: the API over loopback, the twin at its own address."""

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

ADMIN_KEY = "the-admin-key-of-the-container-check"
PROFILES = ["--profile", "twin", "--profile", "scale"]


def compose(*arguments: str) -> str:
    return docker("compose", *PROFILES, *arguments)


def configure() -> None:
    """Set the variables that the README puts into `.env`, with the twin as provider and with free ports."""
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
    """Print the latest log lines except those of successful requests, which are numerous."""
    lines = compose("logs", "--no-color", "--tail", "200").splitlines()
    print(*(line for line in lines if '"status": 20' not in line), sep="\n")


def container(service: str) -> str:
    return compose("ps", "--all", "--quiet", service)


def wait_healthy(*services: str) -> None:
    for service in services:
        wait(f"{service} is healthy", partial(is_healthy, container(service)))


def is_healthy(container_id: str) -> bool:
    return inspect(container_id, "{{.State.Health.Status}}") == "healthy"


def die(service: str) -> None:
    """Kill the container's process with `kill -9` from outside, as in a crash, so that its restart policy applies."""
    container_id = container(service)
    before = int(inspect(container_id, "{{.RestartCount}}"))
    os.kill(int(inspect(container_id, "{{.State.Pid}}")), signal.SIGKILL)
    wait(f"{service} is restarted", lambda: int(inspect(container_id, "{{.RestartCount}}")) > before)


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
        fail(f"posting a task returned {status}: {answer.decode()[:300]}")
    return json.loads(answer)["id"]


def read_task(task_id: str) -> dict[str, Any]:
    status, answer = ask(f"/v1/tasks/{task_id}")
    if status != 200:
        fail(f"reading {task_id} returned {status}: {answer.decode()[:300]}")
    return json.loads(answer)


def count(task_ids: list[str], *statuses: str) -> int:
    """Count the tasks that are in one of these states; a failed or cancelled task ends the check."""
    tasks = [read_task(task_id) for task_id in task_ids]
    for task in tasks:
        if task["status"] in ("failed", "cancelled"):
            fail(f"a task did not succeed: {task}")
    return sum(task["status"] in statuses for task in tasks)


def wait_stored(task_ids: list[str]) -> None:
    wait("every task is stored", lambda: count(task_ids, "stored") == len(task_ids))


def image(task_id: str) -> bytes:
    return ask(f"/v1/tasks/{task_id}/image")[1]


def is_whole(task_id: str) -> bool:
    """Return whether the image has its recorded digest and the provider's ledger contains that digest."""
    recorded = read_task(task_id)["image"]["sha256"]
    sent = {task["sha256"] for task in ledger()["tasks"]}
    return hashlib.sha256(image(task_id)).hexdigest() == recorded and recorded in sent


def ledger() -> dict[str, Any]:
    """Return the tasks that the twin accepted and charged; its port is not published, but its address is reachable."""
    address = inspect(container("twin"), "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    return json.loads(_call(f"http://{address}:8090/twin/ledger")[1])
