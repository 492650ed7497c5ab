"""Trials of the service: the demo tasks, hostile clients, loss of the database, killed processes, a stop."""

import base64
import json
import time
from collections import Counter

from containers.commands import docker, inspect, require, say
from containers.hostile import flood_head, hold_uploads
from containers.service import (
    ask,
    compose,
    container,
    count,
    die,
    image,
    is_healthy,
    is_whole,
    ledger,
    post,
    read_task,
    ready,
    wait,
    wait_healthy,
    wait_stored,
)

OURS = ("api", "api-2", "worker", "worker-2")


def start() -> None:
    """Two APIs and two workers start at the same time on an empty database."""
    wait_healthy(*OURS)
    writable = "test -w /srv || test -w /opt/venv || test -w / || test ! -w /data || test ! -w /tmp"
    for service in OURS:
        inside = ["exec", container(service), "sh", "-c"]
        uid = docker(*inside, f"if {writable}; then echo too much is writable; else id -u; fi")
        if uid != "10001" or inspect(container(service), "{{.RestartCount}}") != "0":
            require(False, f"{service} started once, as user 10001, and can write only to /data and /tmp: {uid}")
    wait("the service is ready", ready)
    say("docker compose starts two APIs and two workers on an empty database, healthy without a restart, as user 10001")
    say("only /data and /tmp are writable")


def demo() -> list[str]:
    drawn = post("a lighthouse above the sea at dawn")
    wait_stored([drawn])
    input_image = base64.b64encode(image(drawn)).decode()
    edited = post("make it sepia", output_format="jpeg", input_image=input_image)
    wait_stored([edited])
    require(is_whole(drawn) and is_whole(edited), "the two demo tasks are stored, with the provider's images")
    status, other = ask(f"/v1/tasks/{edited}/image", port="API_2_PORT")
    require(status == 200 and other == image(edited), "the second API serves the same image")
    return [drawn, edited]


def stop_the_second_of_each() -> None:
    for service in ("api-2", "worker-2"):
        stop(service, container(service))


def stop(name: str, container_id: str) -> None:
    began = time.monotonic()
    docker("stop", "--time", "15", container_id)
    took, code = time.monotonic() - began, inspect(container_id, "{{.State.ExitCode}}")
    require(took < 10 and code == "0", f"SIGTERM stops {name} in {took:.1f} s with exit code {code}")


def survive_hostile_clients() -> list[str]:
    """Send what would take more memory than the container has: headers without an end, and uploads that do not end."""
    api = container("api")
    limit = int(inspect(api, "{{.HostConfig.Memory}}"))
    require(limit == 1024**3, f"the API has {limit / 2**20:.0f} MB of memory")
    answers = [flood_head() for _ in range(3)]
    require(set(answers) <= {"431", "reset"}, f"46 MB of headers on one connection are refused: {', '.join(answers)}")
    with hold_uploads(14) as uploads:
        require(ready(), f"the service is ready while {len(uploads)} uploads of 80 MB are sent and held")
        task = post("a small boat")
    counts = Counter(uploads)
    require(
        set(counts) == {"held", "503"} and counts["held"] == 6,
        f"6 uploads of 80 MB have a place at once, and the others get 503: {dict(counts)}",
    )
    wait_stored([task])
    state = inspect(api, "{{.RestartCount}} {{.State.OOMKilled}}")
    require(state == "0 false", f"the API survived them: restarts and out of memory: {state}")
    return [task]


def post_and_wait_until_several_are_sent(prompt: str) -> list[str]:
    tasks = [post(f"{prompt}, number {number}") for number in range(8)]
    wait("several tasks are submitted", lambda: count(tasks, "submitting", "submitted", "ready", "stored") > 2)
    return tasks


def lose_the_database() -> list[str]:
    tasks = post_and_wait_until_several_are_sent("a red fox")
    docker("kill", "--signal", "KILL", container("postgres"))
    wait("the service is not ready", lambda: ask("/readyz")[0] == 503)
    status, answer = ask("/v1/tasks", {"prompt": "too early"})
    problem = json.loads(answer)
    response = f"{status} {problem['code']}: {problem['detail']}"
    require(response.startswith("503 unavailable"), f"without the database, posting a task returns {response}")
    compose("start", "postgres")
    wait("the service is ready again", ready)
    wait_stored(tasks)
    restarts = {inspect(container(service), "{{.RestartCount}}") for service in ("api", "worker")}
    require(restarts == {"0"}, "the service survives kill -9 of its database, and all open tasks are stored")
    return tasks


def kill_the_worker() -> list[str]:
    tasks = post_and_wait_until_several_are_sent("a blue bird")
    die("worker")
    unfinished = len(tasks) - count(tasks, "stored")
    wait_stored(tasks)
    require(unfinished > 0, f"a worker that is killed with {unfinished} open tasks restarts, and all are stored")
    return tasks


def kill_the_api(task_id: str) -> None:
    task = read_task(task_id)
    die("api")
    wait_healthy("api")
    require(read_task(task_id) == task and is_whole(task_id), "task and image survive kill -9 of the API")


def nothing_was_charged_twice(tasks: list[str]) -> None:
    recorded = ledger()
    attempts = {task["webhook_url"] for task in recorded["tasks"]}
    counts = (recorded["accepted"], len(attempts))
    require(counts == (len(tasks), len(tasks)), f"the provider was called and paid once for each of {len(tasks)} tasks")


def share_sqlite() -> None:
    """Run the README's single container, and a second container on its volume."""
    options = ["--volume=alone:/data", "--read-only", "--tmpfs=/tmp:size=64m", "--cap-drop=ALL"]
    start_one = ["run", "--detach", *options, "--security-opt=no-new-privileges", "fluxhook"]
    first = docker(*start_one)
    wait("the container is healthy on SQLite", lambda: is_healthy(first))
    second = docker(*start_one, "work")
    require(docker("wait", second) == "2", "one container runs on SQLite, and a second one on its volume is refused")
    stop("the container", first)
    docker("rm", first, second)


def run() -> None:
    start()
    tasks = demo()
    stop_the_second_of_each()
    tasks += survive_hostile_clients()
    tasks += lose_the_database()
    tasks += kill_the_worker()
    kill_the_api(tasks[0])
    if not all(map(is_whole, tasks)):
        require(False, "every image has its recorded digest")
    nothing_was_charged_twice(tasks)
    stop("api", container("api"))
    stop("worker", container("worker"))
    share_sqlite()
