"""`submit`: a task from a terminal, or one for each row of a file."""

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape

from app.catalog import DEFAULT_MODEL
from app.cli import completion
from app.cli.api import ask, ask_json, connect, post_task
from app.cli.failure import fail
from app.cli.options import Key, Url
from app.cli.output import one_line, print_json
from app.cli.timeline_printer import follow, require_stored
from app.settings import from_environment

_BATCH: dict[str, Any] = {"rich_help_panel": "With --from"}
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
    model: Annotated[
        str, typer.Option(help="The model; `fluxhook models` lists them.", autocompletion=completion.models)
    ] = DEFAULT_MODEL,
    parameter: Parameters = None,
    seed: Annotated[int | None, typer.Option(help="The random seed, for a reproducible result.")] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="Width to height, from 21:9 to 9:21.")] = None,
    output_format: Annotated[str | None, typer.Option(help="The image format: png, jpeg or webp.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task is final, and print its timeline.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Wait until the task is final, and write the image to this file; with --from, a folder."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="Submit a task for each row of a CSV or JSON Lines file.", **_BATCH
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=100, help="Rows in progress at a time.", **_BATCH)] = 8,
    batch: Annotated[
        str, typer.Option(help="A name for the batch: with another name, the same rows make new tasks.", **_BATCH)
    ] = "",
    check_only: Annotated[
        bool, typer.Option("--check", help="Only check the rows and estimate the price.", **_BATCH)
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Resubmit failed tasks, which may cost again.", **_BATCH)
    ] = False,
    resend_lost: Annotated[
        bool, typer.Option("--resend-lost", help="Send rows again whose answer was lost a day ago.", **_BATCH)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the task as JSON instead of its ID.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Submit a task and print its ID. With --wait or --out, the exit code is 1 unless the image is stored.

    With --from, submit a task for each row of a file, wait for all, and print a summary. The columns are parameters;
    those of images name files or addresses. A command that was stopped continues when it is repeated.
    """
    if out is not None and file is None:
        _require_writable(out)
    fields: dict[str, Any] = {
        "prompt": prompt,
        "model": model,
        "seed": seed,
        "aspect_ratio": aspect_ratio,
        "output_format": output_format,
    }
    fields = {name: value for name, value in fields.items() if value is not None}
    if file is not None:
        from app.cli.batch.command import BatchOptions, submit_batch  # noqa: PLC0415 - it takes time to load

        if image:
            raise typer.BadParameter("with --from, images are columns of the file", param_hint="--image")
        fields |= _texts(parameter or [])
        options = BatchOptions(file, fields, out, concurrency, batch, check_only, retry_failed, resend_lost, as_json)
        submit_batch(options, from_environment(), url, key)
        return
    _submit_one(fields, image or [], parameter or [], out, wait=wait, as_json=as_json, url=url, key=key)


def _submit_one(
    fields: dict[str, Any],
    images: list[Path],
    parameters: list[str],
    out: Path | None,
    *,
    wait: bool,
    as_json: bool,
    url: str | None,
    key: str | None,
) -> None:
    console = Console(stderr=True, soft_wrap=True)
    with connect(from_environment(), url, key) as client:
        files: list[tuple[str, Path]] = []
        if images or parameters:
            row = ask_json(client, "GET", f"/v1/models/{quote(str(fields['model']))}")
            files = _named(images, row)
            _add(parameters, row, fields, files)
        task = post_task(client, fields, files)
        for warning in task["warnings"]:
            console.print(f"[yellow]warning[/] {escape(one_line(warning))}")
        if not as_json:
            typer.echo(task["id"])
        if wait or out is not None:
            task = follow(console, client, task)
        if as_json:
            print_json(task)
        if not wait and out is None:
            return
        require_stored(task)
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
        fail(f"{file} cannot be written: {error.strerror}; the image of {task_id} is still in the service", error)


def _named(images: list[Path], model: dict[str, Any]) -> list[tuple[str, Path]]:
    """Return the images with the fields of the model that take them, in order."""
    rules = model["images"]
    if len(images) > rules["max"]:
        fail(f"{model['id']} takes at most {rules['max']} images")
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


def _texts(parameters: list[str]) -> dict[str, Any]:
    """Return the parameters of the command line for all rows of a file."""
    pairs = [given.partition("=") for given in parameters]
    for name, equals, text in pairs:
        if not equals or not name or text.startswith("@"):
            raise typer.BadParameter(f"{name}{equals}{text} is not NAME=VALUE", param_hint="--parameter")
    return {name: _value(text, {}) for name, _, text in pairs}


def _value(text: str, schema: dict[str, Any]) -> Any:
    """Return a parameter as JSON, unless its member takes texts or it is none."""
    if "string" in str(schema.get("type", "")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
