"""`submit`, `watch` and `tasks`: tasks from a terminal."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app.catalog import DEFAULT_MODEL
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
    typer.Option("--image", exists=True, dir_okay=False, help="An input image; repeat it for as many as it takes."),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help="A parameter of the model: JSON, or else text; `NAME=@FILE` for an image. Repeatable.",
    ),
]


def submit(
    prompt: Annotated[str | None, typer.Argument(help="What to draw, or what to change in the input images.")] = None,
    image: Image = None,
    model: Annotated[str, typer.Option(help="The model; `fluxhook models` lists them.")] = DEFAULT_MODEL,
    parameter: Parameters = None,
    seed: Annotated[int | None, typer.Option(help="The random seed, for a reproducible result.")] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="Width to height, from 21:9 to 9:21.")] = None,
    output_format: Annotated[str | None, typer.Option(help="The image format: png, jpeg or webp.")] = None,
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
    if out is not None:
        _require_writable(out)
    fields: dict[str, Any] = {
        "prompt": prompt,
        "model": model,
        "seed": seed,
        "aspect_ratio": aspect_ratio,
        "output_format": output_format,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    console = Console(stderr=True, soft_wrap=True)
    with connect(from_environment(), url, key) as client:
        files: list[tuple[str, Path]] = []
        if image or parameter:
            row = ask(client, "GET", f"/v1/models/{model}").json()
            files = _named(image or [], row)
            _add(parameter or [], row, fields, files)
        task = post_task(client, fields, files)
        for warning in task["warnings"]:
            console.print(f"[yellow]warning[/] {warning}")
        typer.echo(task["id"])
        if not wait and out is None:
            return
        task = print_timelines(console, client, {"task": task})["task"]
        _require_stored(task)
        if out is not None:
            _write(out, ask(client, "GET", task["image"]["url"]).content, task["id"])


def _require_writable(file: Path) -> None:
    """Create the file before anything is paid for. Raises BadParameter."""
    try:
        with file.open("ab"):
            pass
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}", param_hint="--out") from error


def _write(file: Path, content: bytes, task_id: str) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        text = f"fluxhook: {file} cannot be written: {error.strerror}; the image of {task_id} is still in the service"
        typer.echo(text, err=True)
        raise typer.Exit(1) from error


def _named(images: list[Path], model: dict[str, Any]) -> list[tuple[str, Path]]:
    """Return the images with the fields of the model that take them, in order."""
    rules = model["images"]
    if len(images) > rules["max"]:
        typer.echo(f"fluxhook: {model['id']} takes at most {rules['max']} images", err=True)
        raise typer.Exit(1)
    names = rules["members"] * rules["max"] if rules["style"] == "list" else rules["members"]
    return list(zip(names, images, strict=False))


def _add(parameters: list[str], model: dict[str, Any], fields: dict[str, Any], files: list[tuple[str, Path]]) -> None:
    """Add the parameters of the command line to the fields and files of the request."""
    for given in parameters:
        name, equals, text = given.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{given} is not NAME=VALUE", param_hint="--parameter")
        if text.startswith("@"):
            path = Path(text[1:])
            if not path.is_file():
                raise typer.BadParameter(f"there is no file {path}", param_hint="--parameter")
            files.append((name, path))
        else:
            fields[name] = _value(text, model["request"]["properties"].get(name, {}))


def _value(text: str, schema: dict[str, Any]) -> Any:
    """Return a parameter as JSON, unless its member takes texts or it is none."""
    if "string" in str(schema.get("type", "")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


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
