"""`fluxhook twin` in a child process."""

import asyncio
import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.sockets import listening

pytestmark = pytest.mark.proof

ROOT = Path(__file__).resolve().parents[2]


async def run(port: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "twin", "--port", str(port)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_address_that_is_printed_has_the_port_and_answers() -> None:
    process = await run(0)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stdout.readline()).decode()
            address = re.search(r"http://127\.0\.0\.1:[1-9]\d*$", line.strip())
            assert address is not None, line
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                answer = await client.get(f"{address[0]}/twin/ledger")
    finally:
        process.kill()
        await process.wait()

    assert answer.status_code == 200


async def test_no_address_is_printed_if_the_port_is_taken() -> None:
    bound, address = listening()
    with bound:
        process = await run(int(address.rpartition(":")[2]))
        async with asyncio.timeout(60):
            output, errors = await process.communicate()

    assert process.returncode != 0
    assert output == b""
    assert b"address already in use" in errors
