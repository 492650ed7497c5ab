"""Clients that generators make of /openapi.json: they compile, and do a task."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

from app.main import create_app
from tests.conftest import skip_or_fail
from tests.services import services_running
from tests.world import ADMIN_KEY

PROGRAMS = Path(__file__).parent / "generated_clients"
_NPM = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
_PACKAGES = ("openapi-typescript@7", "openapi-fetch@0", "typescript@5", "@types/node@20")
_TSC = ("npx", "tsc", "--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "client.ts")


def run(folder: Path, *command: str, **env: str) -> str:
    """Run a command and return its output; it must succeed."""
    done = subprocess.run(  # noqa: S603 - our own commands
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def described(folder: Path) -> Path:
    """Write the description of the API to a file."""
    document = create_app(nullcontext(), with_worker=False).openapi()  # type: ignore[arg-type] # never started
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path


async def does_a_task(folder: Path, sqlite_url: str, *command: str) -> None:
    async with services_running(folder, sqlite_url, ready_after_s=0.1) as (ours, _):
        env = {"BASE_URL": ours, "API_KEY": ADMIN_KEY, "PYTHONPATH": str(folder)}
        printed = await asyncio.to_thread(run, folder, *command, **env)
    assert json.loads(printed) == {"status": "stored", "bytes": True, "code": "not_found"}


async def test_a_generated_typescript_client_compiles_and_does_a_task(tmp_path: Path, sqlite_url: str) -> None:
    if shutil.which("npm") is None:
        skip_or_fail("node", "Node and npm are not installed")
    described(tmp_path)
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    installed = subprocess.run([*_NPM, *_PACKAGES], cwd=tmp_path, capture_output=True, check=False)  # noqa: ASYNC221, S603
    if installed.returncode != 0:
        skip_or_fail("node", "the npm registry cannot be reached")
    shutil.copy(PROGRAMS / "client.ts", tmp_path)
    run(tmp_path, "npx", "openapi-typescript", "openapi.json", "-o", "api.d.ts")
    run(tmp_path, *_TSC)
    await does_a_task(tmp_path, sqlite_url, "node", "client.js")


async def test_a_generated_python_client_does_a_task(tmp_path: Path, sqlite_url: str) -> None:
    # In an environment of its own, because the generator needs other versions of some libraries.
    python = tmp_path / "generator" / "bin" / "python"
    run(tmp_path, sys.executable, "-m", "venv", str(tmp_path / "generator"))
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-qq",
        "--disable-pip-version-check",
        "openapi-python-client==0.29.1",
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:  # noqa: ASYNC221, S603
        skip_or_fail("generators", "the Python registry cannot be reached")
    generate = ("generate", "--path", str(described(tmp_path)), "--meta", "none", "--fail-on-warning")
    config = tmp_path / "config.yml"
    config.write_text("post_hooks: []\n")
    run(
        tmp_path,
        str(python),
        "-m",
        "openapi_python_client",
        *generate,
        "--output-path",
        "fluxhook_client",
        "--config",
        str(config),
    )
    run(tmp_path, str(python), "-m", "compileall", "-q", "fluxhook_client")
    await does_a_task(tmp_path, sqlite_url, str(python), str(PROGRAMS / "client.py"))
