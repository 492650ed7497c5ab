"""What the service has to go through: the job of the demo, its database away, its processes killed, a stop."""

import base64
import json
import time

from containers.commands import docker, inspect, require, say
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
    """Two of each start at once on a database with nothing in it."""
    wait_healthy(*OURS)
    writable = "test -w /srv || test -w /opt/venv || test -w / || test ! -w /data || test ! -w /tmp"
    for service in OURS:
        inside = ["exec", container(service), "sh", "-c"]
        uid = docker(*inside, f"if {writable}; then echo too much; else id -u; fi")
        if uid != "10001" or inspect(container(service), "{{.RestartCount}}") != "0":
            require(False, f"{service} started once, as user 10001, and can write to /data and /tmp alone: {uid}")
    wait("it is ready", 30, ready)
    say("docker compose brings up two of each on an empty database, healthy at the first try, as user 10001")
    say("only /data and /tmp can be written to")


def demo() -> list[str]:
    drawn = post("a lighthouse above the sea at dawn")
    wait_stored([drawn])
    given = base64.b64encode(image(drawn)).decode()
    edited = post("make it sepia", output_format="jpeg", input_image=given)
    wait_stored([edited])
    require(is_whole(drawn) and is_whole(edited), "the demo's two tasks are stored, their images the provider's")
    status, other = ask(f"/v1/tasks/{edited}/image", port="API_2_PORT")
    require(status == 200 and other == image(edited), "the second API has the same images")
    return [drawn, edited]


def stop_the_second_of_each() -> None:
    for service in ("api-2", "worker-2"):
        stop(service, container(service))


def stop(name: str, its: str) -> None:
    began = time.monotonic()
    docker("stop", "--time", "15", its)
    took, code = time.monotonic() - began, inspect(its, "{{.State.ExitCode}}")
    require(took < 10 and code == "0", f"SIGTERM ends {name} in {took:.1f} s with exit code {code}")


def post_and_wait_until_several_are_sent(prompt: str) -> list[str]:
    tasks = [post(f"{prompt}, number {number}") for number in range(8)]
    wait("several are with the provider", 20, lambda: count(tasks, "submitting", "submitted", "ready", "stored") > 2)
    return tasks


def lose_the_database() -> list[str]:
    tasks = post_and_wait_until_several_are_sent("a red fox")
    docker("kill", "--signal", "KILL", container("postgres"))
    wait("it is not ready", 20, lambda: ask("/readyz")[0] == 503)
    status, answer = ask("/v1/tasks", {"prompt": "too early"})
    problem = json.loads(answer)
    said = f"{status} {problem['code']}: {problem['detail']}"
    require(said.startswith("503 unavailable"), f"without its database a task is answered with {said}")
    compose("start", "postgres")
    wait("it is ready again", 30, ready)
    wait_stored(tasks)
    restarts = {inspect(container(service), "{{.RestartCount}}") for service in ("api", "worker")}
    require(restarts == {"0"}, "it outlives kill -9 of its database, and what was in flight is stored")
    return tasks


def kill_the_worker() -> list[str]:
    tasks = post_and_wait_until_several_are_sent("a blue bird")
    die("worker")
    unfinished = len(tasks) - count(tasks, "stored")
    wait_stored(tasks)
    require(unfinished > 0, f"a worker that is killed with {unfinished} tasks in flight comes back, and all are stored")
    return tasks


def kill_the_api(task_id: str) -> None:
    task = read_task(task_id)
    die("api")
    wait_healthy("api")
    require(read_task(task_id) == task and is_whole(task_id), "task and image survive kill -9 of the API")


def nothing_was_charged_twice(tasks: list[str]) -> None:
    made = ledger()
    attempts = {task["webhook_url"] for task in made["tasks"]}
    found = (made["accepted"], len(attempts))
    require(found == (len(tasks), len(tasks)), f"the provider was asked and paid once for each of {len(tasks)} tasks")


def share_sqlite() -> None:
    """The one container of the README, and a second one on its volume."""
    options = ["--volume=alone:/data", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"]
    start_one = ["run", "--detach", *options, "--security-opt=no-new-privileges", "fluxhook"]
    first = docker(*start_one)
    wait("it is healthy on SQLite", 60, lambda: is_healthy(first))
    second = docker(*start_one, "work")
    require(docker("wait", second) == "2", "one container runs on SQLite, and a second on its volume is refused")
    stop("it", first)
    docker("rm", first, second)


def run() -> None:
    start()
    tasks = demo()
    stop_the_second_of_each()
    tasks += lose_the_database()
    tasks += kill_the_worker()
    kill_the_api(tasks[0])
    if not all(map(is_whole, tasks)):
        require(False, "every image has the digest it says")
    nothing_was_charged_twice(tasks)
    stop("api", container("api"))
    stop("worker", container("worker"))
    share_sqlite()
