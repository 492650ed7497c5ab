"""Run commands, wait, and check conditions; all files of the check are in one scratch folder."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parents[2]
# Ends what hangs. The check shares its processors, and a busy machine takes many times as long as a quiet one.
PATIENCE_S = 300

scratch = Path(tempfile.mkdtemp(prefix="fluxhook-", dir="/tmp"))
env = {name: value for name, value in os.environ.items() if not name.startswith(("FLUXHOOK_", "COMPOSE_", "POSTGRES_"))}
env |= {
    "DOCKER_HOST": f"unix://{scratch}/engine.sock",
    "DOCKER_CONFIG": f"{scratch}/client",
    "DOCKER_BUILDKIT": "1",
}


def say(text: str) -> None:
    print(f"container-check: {text}", flush=True)


def fail(text: str) -> NoReturn:
    sys.exit(f"container-check: FAILED: {text}")


def require(condition: bool, text: str) -> None:
    if not condition:
        fail(f"not true: {text}")
    say(text)


def run(*command: str, seconds: int = PATIENCE_S) -> str:
    """Return the output of the command; a failure prints it and ends the check."""
    done = subprocess.run(
        command, cwd=HERE, env=env, timeout=seconds, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n")
        fail(" ".join(command))
    return done.stdout.strip()


def docker(*arguments: str, seconds: int = PATIENCE_S) -> str:
    # By path: a newer client that comes first on the PATH would fall back to the old builder with this engine.
    return run("/usr/bin/docker", *arguments, seconds=seconds)


def inspect(name: str, template: str) -> str:
    return docker("inspect", "--format", template, name)


def wait(condition: str, is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_met():
        if time.monotonic() > deadline:
            fail(f"not true within {PATIENCE_S} s: {condition}")
        time.sleep(0.25)
