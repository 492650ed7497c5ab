"""`fluxhook demo` in a child process without any configuration."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.pictures import picture

pytestmark = pytest.mark.proof

ROOT = Path(__file__).resolve().parents[2]


async def test_the_demo_prints_a_command_that_edits_a_photo_and_ends_cleanly(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(picture(form="JPEG"))
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLUXHOOK_")}
    env |= {"PYTHONPATH": str(ROOT), "FLUXHOOK_PORT": "0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "demo"),
        cwd=tmp_path,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(100):
            while not lines or "Ctrl-C" not in lines[-1]:
                lines.append((await process.stdout.readline()).decode())
                assert lines[-1], lines
            (command,) = [line for line in lines if line.startswith("  FLUXHOOK_DATA_DIR=")]
            edit = await asyncio.create_subprocess_shell(command, cwd=tmp_path, env=env)
            assert await edit.wait() == 0
            process.send_signal(signal.SIGINT)
            rest = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert (tmp_path / "sepia.png").read_bytes().startswith(b"\x89PNG")
    assert any("unsafe result" in line for line in lines)
    assert (process.returncode, rest) == (0, "Stopping.\n")


async def test_the_demo_stores_and_verifies_both_images_and_exits_with_0(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLUXHOOK_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "demo", "--once"),
        cwd=ROOT,
        env={**env, "FLUXHOOK_DATA_DIR": str(tmp_path), "FLUXHOOK_PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(40):
            output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0, output
    assert output.count("started: the request is sent") == 2
    assert output.count("it has the shared secret") == 2
    assert output.count("verified  ") == 2
    assert "not verified" not in output
    assert "Both images are at" not in output  # the service has ended
    assert len(list((tmp_path / "demo" / "images" / "results").rglob("*.*"))) == 2
