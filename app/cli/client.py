"""`submit`, `watch` and `tasks`: the API from a terminal."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.cli.api import ask, ask_for_page, connect, post_task
from app.cli.timeline_printer import tell
from app.settings import from_environment

_WIDTH = 160

Url = Annotated[str | None, typer.Option(help="The service. Default: the configured host and port.")]
Key = Annotated[str | None, typer.Option(help="An API key. Default: the admin key.")]
Image = Annotated[list[Path] | None, typer.Option("--image", exists=True, dir_okay=False, help="Up to four images.")]


def submit(
    prompt: Annotated[str, typer.Argument(help="What to draw, or what to change.")],
    image: Image = None,
    model: Annotated[str, typer.Option(help="flux-kontext-pro or flux-kontext-max.")] = "flux-kontext-pro",
    seed: Annotated[int | None, typer.Option(help="For a result that can be had again.")] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="W:H, between 21:9 and 9:21.")] = None,
    output_format: Annotated[str, typer.Option(help="png, jpeg or webp.")] = "png",
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Tell what happens until the task is final.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the image here; waits for it.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Submit a task and print its id."""
    fields = {"prompt": prompt, "model": model, "output_format": output_format}
    fields |= {"seed": str(seed)} if seed is not None else {}
    fields |= {"aspect_ratio": aspect_ratio} if aspect_ratio is not None else {}
    console = Console(stderr=True, soft_wrap=True)
    with connect(from_environment(), url, key) as client:
        task = post_task(client, fields, image or [])
        for warning in task["warnings"]:
            console.print(f"[yellow]warning[/] {warning}")
        typer.echo(task["id"])
        if not wait and out is None:
            return
        task = tell(console, client, {"task": task})["task"]
        _require_stored(task)
        if out is not None:
            out.write_bytes(ask(client, "GET", task["image"]["url"]).content)


def watch(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="A task's id.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Tell what happens to a task until it is final; exit code 1 unless its image is stored."""
    with connect(from_environment(), url, key) as client:
        task = ask(client, "GET", f"/v1/tasks/{task_id}").json()
        _require_stored(tell(Console(soft_wrap=True), client, {"task": task})["task"])


def tasks(
    status: Annotated[str | None, typer.Option(help="Only tasks in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Only tasks of this model.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many.")] = 20,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List the latest tasks."""
    query = {"status": status, "model": model, "limit": limit}
    with connect(from_environment(), url, key) as client:
        found = ask_for_page(client, "/v1/tasks", query)["tasks"]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("created", "id", "state", "prompt", box=None, pad_edge=False)
    for task in found:
        table.add_row(*_row(task))
    # As wide as it has to be: an id that is cut cannot be copied.
    Console(width=_WIDTH, highlight=False).print(table)


def _row(task: dict[str, Any]) -> tuple[str, ...]:
    state = task["failure"]["code"] if task["failure"] else task["status"]
    prompt = task["params"]["prompt"].replace("[", r"\[")
    return task["created_at"][:19], task["id"], state, prompt[:60]


def _require_stored(task: dict[str, Any]) -> None:
    if task["failure"] is not None:
        failure = task["failure"]
        typer.echo(f"{failure['code']}: {failure['detail']} (money spent: {failure['money_spent']})", err=True)
    if task["status"] != "stored":
        raise typer.Exit(1)
