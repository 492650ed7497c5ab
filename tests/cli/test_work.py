"""`fluxhook work`: separate processes that share a PostgreSQL database, and their heartbeat and exit codes."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from app.cli import commands
from app.errors import ConfigurationError
from app.twin import build
from tests.replicas import replicas
from tests.sockets import listening, serving, until


@pytest.mark.parametrize("missing", ["heartbeat", "metrics"])
def test_a_worker_without_its_heartbeat_file_or_metrics_port_ends_with_one_sentence(
    tmp_path: Path, missing: str
) -> None:
    bound, address = listening()
    env = {"FLUXHOOK_DATA_DIR": str(tmp_path / "data"), "FLUXHOOK_METRICS_PORT": ""}
    arguments = ["work", "--heartbeat", str(tmp_path / "none" / "heartbeat")]
    if missing == "metrics":
        env["FLUXHOOK_METRICS_PORT"], arguments = address.rpartition(":")[2], ["work"]
    with bound, capture_logs():
        ended = CliRunner().invoke(commands(), arguments, env=env)

    assert isinstance(ended.exception, ConfigurationError)
    prefix = {"heartbeat": "--heartbeat: ", "metrics": "FLUXHOOK_METRICS_PORT: "}[missing]
    assert ended.exception.detail.startswith(prefix)


@pytest.mark.proof
async def test_an_api_and_two_workers_share_a_database_and_exit_with_0_on_sigterm(
    tmp_path: Path, postgres_url: str
) -> None:
    theirs, provider = listening()
    async with (
        serving(build(ready_after_s=0.2, seed=1), theirs),
        replicas(tmp_path, provider, FLUXHOOK_DATABASE_URL=postgres_url) as ours,
    ):
        processes = [await ours.start("serve", "--no-worker")]
        await until(ours.healthy, 120)
        await ours.post()
        waiting = await ours.has("queued")
        heartbeat = tmp_path / "heartbeat"
        processes += [await ours.start("work", "--heartbeat", str(heartbeat)), await ours.start("work")]
        await until(lambda: ours.has("stored"), 60)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(120):
            codes = [await process.wait() for process in processes]

    assert waiting
    assert heartbeat.exists()
    assert codes == [0, 0, 0], ours.log.read_text()


@pytest.mark.proof
async def test_a_stopping_worker_finishes_its_job_and_a_second_signal_ends_it_at_once(
    tmp_path: Path, postgres_url: str
) -> None:
    silent, provider = listening()  # accepts connections and sends nothing
    async with replicas(tmp_path, provider, FLUXHOOK_DATABASE_URL=postgres_url) as ours:
        api = await ours.start("serve", "--no-worker")
        await until(ours.healthy, 120)
        await ours.post()
        worker = await ours.start("work")
        await until(lambda: ours.has("submitting"), 120)
        worker.send_signal(signal.SIGTERM)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await worker.wait()
        ending = asyncio.create_task(worker.wait())
        async with asyncio.timeout(120):
            while not ending.done():  # two signals that reach a busy process together count as one
                with suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGTERM)
                await asyncio.wait([ending], timeout=5)
        code = ending.result()
        api.send_signal(signal.SIGTERM)
        await api.wait()
    silent.close()

    assert code == 128 + signal.SIGTERM


@pytest.mark.proof
async def test_on_sqlite_a_second_process_is_refused_in_one_sentence(tmp_path: Path) -> None:
    async with replicas(tmp_path, "http://127.0.0.1:9") as ours:
        await ours.start("serve")
        await until(ours.healthy, 120)
        refused = await ours.start("work")
        async with asyncio.timeout(120):
            code = await refused.wait()

        assert code == 2
        assert "SQLite serves one process" in ours.log.read_text()
        assert await ours.healthy()
