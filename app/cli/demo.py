"""`demo`: the service and the twin as its provider on this machine, connected by real HTTP."""

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import uvicorn
from rich.console import Console

from app.cli.api import ask, connect, local_url, post_task
from app.cli.next_command import next_command
from app.cli.picture import draw_landscape
from app.cli.preflight import require_data_dir
from app.cli.process import server
from app.cli.serve import prepare
from app.cli.timeline_printer import print_timelines
from app.db.engine.process_lock import process_lock
from app.main import create_app
from app.settings import Settings, from_environment
from app.telemetry import logs
from app.twin import TRIGGER_WORDS, build
from app.wiring import database_url, load_or_create_secret, open_resources

_READY_AFTER_S = 1.5
_START_S = 20

Labelled = dict[str, dict[str, Any]]


def demo(
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The image to edit. Default: a generated one.")
    ] = None,
    *,
    once: Annotated[
        bool,
        typer.Option("--once", help="Exit when both tasks are final, with code 0 if both images are verified, else 1."),
    ] = False,
) -> None:
    """Run the service with a stand-in for the provider, and show two tasks. Needs no API key."""
    configured = from_environment()
    folder = configured.data_dir / "demo"
    require_data_dir(configured.model_copy(update={"data_dir": folder}))
    console = Console(soft_wrap=True)
    with (folder / "fluxhook.log").open("a") as log:
        logs.configure(stream=log)
        with _listen(configured.port) as ours, _listen(0) as twins:
            twin_url = f"http://127.0.0.1:{twins.getsockname()[1]}"
            settings = _settings(folder, ours.getsockname()[1], twin_url)
            with process_lock(database_url(settings)), _running(settings, ours, twins):
                stored = _show(console, settings, twin_url, image or draw_landscape(folder / "landscape.png"))
                if not once:
                    _stay(console, settings)
    raise typer.Exit(0 if stored else 1)


def _settings(folder: Path, port: int, twin_url: str) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": folder,
            "bfl_base_url": twin_url,
            "bfl_api_key": "demo",
            "public_url": f"http://127.0.0.1:{port}",
            "port": port,
        }
    )


def _show(console: Console, settings: Settings, twin_url: str, picture: Path) -> bool:
    """Submit two tasks and print their timelines and the paths of the images. Return whether both are verified."""
    with connect(settings, None, None) as client:
        posted = {
            "text to image": post_task(client, {"prompt": "a lighthouse above the sea at dawn"}),
            "edit": post_task(client, {"prompt": "make it sepia", "output_format": "jpeg"}, [("input_image", picture)]),
        }
        console.print(f"The service is at {local_url(settings)}, the provider's twin at {twin_url}.", highlight=False)
        console.print("Times are in seconds since the first task was recorded.")
        ended = print_timelines(console, client, posted)
        verified = {label: _verify(client, twin_url, task) for label, task in ended.items()}
        for label, path in ((label, _path(settings, client, task)) for label, task in ended.items()):
            mark = "[green]verified[/]" if verified[label] else "[red]not verified[/]"
            console.print(f"{mark}  {label}: {path}", highlight=False)
    return all(verified.values())


def _verify(client: httpx.Client, twin_url: str, task: dict[str, Any]) -> bool:
    """Whether the image is stored and its digest is both the recorded one and one in the twin's ledger."""
    if task["image"] is None:
        return False
    ours = hashlib.sha256(ask(client, "GET", task["image"]["url"]).content).hexdigest()
    with httpx.Client(trust_env=False) as provider:
        theirs = {entry["sha256"] for entry in provider.get(f"{twin_url}/twin/ledger").json()["tasks"]}
    return ours == task["image"]["sha256"] and ours in theirs


def _path(settings: Settings, client: httpx.Client, task: dict[str, Any]) -> str:
    if task["image"] is None:
        return f"{client.base_url}/v1/tasks/{task['id']}/timeline shows why there is no image"
    found = (settings.data_dir / "images").rglob(f"{task['image']['sha256']}.*")
    return str(next(found, "not found"))


@contextmanager
def _running(settings: Settings, ours: socket.socket, twins: socket.socket) -> Generator[None]:
    """Run both servers in a separate thread until the block ends."""
    asyncio.run(prepare(settings))
    servers: dict[uvicorn.Server, socket.socket] = {
        server(create_app(open_resources(settings)), settings.host, settings.port): ours,
        server(build(_READY_AFTER_S), settings.host, twins.getsockname()[1]): twins,
    }
    thread = threading.Thread(target=lambda: asyncio.run(_serve(servers)), name="demo")
    thread.start()
    try:
        _await_start(servers, thread)
        yield
    finally:
        for running in servers:
            running.should_exit = True
        thread.join()


async def _serve(servers: dict[uvicorn.Server, socket.socket]) -> None:
    await asyncio.gather(*(running.serve(sockets=[listening]) for running, listening in servers.items()))


def _await_start(servers: dict[uvicorn.Server, socket.socket], thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_S
    while not all(starting.started for starting in servers):
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError(
                "the servers of the demo did not start; see fluxhook.log in the folder `demo` of FLUXHOOK_DATA_DIR"
            )
        time.sleep(0.02)


def _listen(port: int) -> socket.socket:
    """Listen on this port of the loopback interface, or on a free port if it is taken."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return socket.create_server(("127.0.0.1", 0))


def _stay(console: Console, settings: Settings) -> None:
    key = load_or_create_secret(settings.data_dir / "admin_key")[0]
    edit = next_command(settings, 'submit "make it sepia" --image photo.jpg --out sepia.png')
    for line in (
        "",
        f"Both images are at {local_url(settings)}/ : sign in with the API key {key}",
        "Edit a photo of yours there under New task, or in another terminal:",
        f"  {edit}",
        f"The twin fails on purpose if a prompt has one of these words: {', '.join(TRIGGER_WORDS)}.",
        "Serving until you press Ctrl-C.",
    ):
        console.print(line, highlight=False, markup=False)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("Stopping.")
