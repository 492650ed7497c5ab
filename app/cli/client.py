"""`submit`, `watch` and `tasks`: tasks from a terminal."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app.cli.api import ask, ask_for_page, connect, post_task
from app.cli.table_printer import print_table
from app.cli.timeline_printer import print_timelines
from app.settings import from_environment

_WIDTH = 160

Url = Annotated[str | None, typer.Option(help="The URL of the service. Default: the configured host and port.")]
Key = Annotated[str | None, typer.Option(help="An API key. Default: the admin key.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="The maximum number of rows.")]
Image = Annotated[
    list[Path] | None,
    typer.Option("--image", exists=True, dir_okay=False, help="An input image; repeat it for up to 4."),
]


def submit(
    prompt: Annotated[str, typer.Argument(help="What to draw, or what to change in the input images.")],
    image: Image = None,
    model: Annotated[str, typer.Option(help="The model: flux-kontext-pro or flux-kontext-max.")] = "flux-kontext-pro",
    seed: Annotated[int | None, typer.Option(help="The random seed, for a reproducible result.")] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="Width to height, from 21:9 to 9:21.")] = None,
    output_format: Annotated[str, typer.Option(help="The image format: png, jpeg or webp.")] = "png",
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task is final, and print its timeline.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Wait until the task is final, and write the image to this file."),
    ] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Submit a task and print its ID. With --wait or --out, the exit code is 1 unless the image is stored."""
    if out is not None and not out.parent.is_dir():
        raise typer.BadParameter(f"the folder {out.parent} does not exist", param_hint="--out")
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
        task = print_timelines(console, client, {"task": task})["task"]
        _require_stored(task)
        if out is not None:
            out.write_bytes(ask(client, "GET", task["image"]["url"]).content)


def watch(
    task_id: Annotated[str, typer.Argument(metavar="ID", help="The ID of a task.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Print the timeline of a task until it is final. The exit code is 1 unless its image is stored."""
    with connect(from_environment(), url, key) as client:
        task = ask(client, "GET", f"/v1/tasks/{task_id}").json()
        _require_stored(print_timelines(Console(soft_wrap=True), client, {"task": task})["task"])


def tasks(
    status: Annotated[str | None, typer.Option(help="Show only tasks in this state.")] = None,
    model: Annotated[str | None, typer.Option(help="Show only tasks of this model.")] = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List tasks, newest first."""
    query = {"status": status, "model": model, "limit": limit}
    with connect(from_environment(), url, key) as client:
        rows = ask_for_page(client, "/v1/tasks", query)["tasks"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    print_table(("created", "id", "state", "prompt"), map(_row, rows), _WIDTH)


def _row(task: dict[str, Any]) -> tuple[str, ...]:
    state = task["failure"]["code"] if task["failure"] else task["status"]
    return task["created_at"][:19], task["id"], state, task["params"]["prompt"][:60]


def _require_stored(task: dict[str, Any]) -> None:
    if task["failure"] is not None:
        failure = task["failure"]
        typer.echo(f"{failure['code']}: {failure['detail']} (money spent: {failure['money_spent']})", err=True)
    if task["status"] != "stored":
        raise typer.Exit(1)
