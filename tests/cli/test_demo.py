"""`fluxhook demo --once` in a child process without any configuration."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.proof

ROOT = Path(__file__).resolve().parents[2]


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
    assert "Open http" not in output  # the service has ended
    assert len(list((tmp_path / "demo" / "images" / "results").rglob("*.*"))) == 2
