"""`work`: a worker alone, without HTTP."""

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
from app.cli.serve import announce, give_back_large_blocks, prepare, settle_down
from app.db.engine.process_lock import process_lock
from app.db.migrations.revision import is_current
from app.errors import ConfigurationError, Unavailable
from app.resources import Resources
from app.settings import Settings, from_environment
from app.telemetry import logs, metrics, tracing
from app.wiring import database_url, open_resources
from app.worker import loop as worker

_BEAT_S = 5.0

log = logs.get("working")


def work(
    heartbeat: Annotated[
        Path | None, typer.Option(help="Touch this file every 5 s, as long as this process and the database answer.")
    ] = None,
) -> None:
    """Run a worker without the API; any number of them share one PostgreSQL."""
    settings = from_environment()
    logs.configure()
    give_back_large_blocks()
    if heartbeat is not None:
        _require_writable(heartbeat)
    require(settings)
    with process_lock(database_url(settings)), tracing.sending(), _scraped(settings):
        asyncio.run(_work(settings, heartbeat))


def _require_writable(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise ConfigurationError(f"--heartbeat: {file} cannot be written: {error.strerror}") from error


@contextmanager
def _scraped(settings: Settings) -> Generator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(metrics.scraped(settings.host, settings.metrics_port))
        except OSError as error:
            port = settings.metrics_port
            raise ConfigurationError(
                f"FLUXHOOK_METRICS_PORT: {port} cannot be listened on: {error.strerror}"
            ) from error
        yield


async def _work(settings: Settings, heartbeat: Path | None) -> None:
    announce(settings, "at work", await prepare(settings))
    async with open_resources(settings) as use, asyncio.TaskGroup() as group:
        stop_on_signals(use.stopping)
        settle_down()
        heartbeats = group.create_task(beat(use, heartbeat)) if heartbeat else None
        await worker.run(use)
        if heartbeats:
            heartbeats.cancel()


def stop_on_signals(stopping: asyncio.Event) -> None:
    """Set `stopping` at the first SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if asked:
            os._exit(128 + number)
        asked.append(number)
        loop.call_soon_threadsafe(stopping.set)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, stop)


async def beat(use: Resources, file: Path, every_s: float = _BEAT_S) -> None:
    """Touch `file` as long as this event loop turns and the database answers."""
    while True:
        if await can_work(use):
            try:
                await asyncio.to_thread(file.touch)
            except OSError as error:
                log.warning("heartbeat_not_written", error=error.strerror)  # jobs go on; a check of the file fails
        await asyncio.sleep(every_s)


async def can_work(use: Resources) -> bool:
    """Whether the database answers, with a schema that fits."""
    try:
        return await use.db.read(is_current)
    except Unavailable:
        return False
