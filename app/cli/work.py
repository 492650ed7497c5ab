"""`work`: a worker without the API."""

import asyncio
import os
import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.cli.preflight import require
from app.cli.process import exit_in_time, freeze_lasting_objects, give_back_large_blocks
from app.cli.serve import announce, prepare
from app.db.engine.process_lock import process_lock
from app.errors import ConfigurationError
from app.settings import Settings, from_environment
from app.telemetry import logs, metrics, tracing
from app.wiring import database_url, open_resources
from app.worker import loop as worker
from app.worker.heartbeat import Rounds, touch_liveness_file


def work(
    heartbeat: Annotated[
        Path | None,
        typer.Option(help="Touch this file every 5 s while the worker looks for jobs and the database answers."),
    ] = None,
) -> None:
    """Run a worker without the API. Any number of workers can share one PostgreSQL database."""
    settings = from_environment()
    logs.configure()
    give_back_large_blocks()
    if heartbeat is not None:
        _require_writable(heartbeat)
    require(settings)
    with process_lock(database_url(settings)), tracing.sending(), _metrics_served(settings):
        asyncio.run(_work(settings, heartbeat))


def _require_writable(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise ConfigurationError(f"--heartbeat: {file} cannot be written: {error.strerror}") from error


@contextmanager
def _metrics_served(settings: Settings) -> Generator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(metrics.scraped(settings.host, settings.metrics_port))
        except OSError as error:
            port = settings.metrics_port
            raise ConfigurationError(f"FLUXHOOK_METRICS_PORT: cannot listen on {port}: {error.strerror}") from error
        yield


async def _work(settings: Settings, heartbeat: Path | None) -> None:
    announce(settings, "worker", await prepare(settings))
    async with open_resources(settings) as use, asyncio.TaskGroup() as group:
        stop_on_signals(use.stopping)
        freeze_lasting_objects()
        rounds = Rounds()
        touching = group.create_task(touch_liveness_file(use, heartbeat, rounds)) if heartbeat else None
        await worker.run(use, rounds=rounds)
        if touching:
            touching.cancel()


def stop_on_signals(stopping: asyncio.Event) -> None:
    """Set `stopping` at the first SIGTERM or SIGINT. A second signal ends the process at once with 128 + its number."""
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        exit_in_time()
        loop.call_soon_threadsafe(stopping.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
