"""`watch` and `tasks`: follow a task, and list tasks."""

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from app.cli import completion
from app.cli.api import ask_for_page, ask_json, connect, task_path
from app.cli.options import AsJson, Key, Limit, TaskId, Url
from app.cli.output import print_json
from app.cli.table_printer import STATES, Cell, Column, print_table
from app.cli.timeline_printer import follow, require_stored
from app.cli.times import After, Before
from app.rules.task import Failure
from app.settings import from_environment

_COLUMNS = (
    Column("created"),
    Column("id"),
    Column("state", styles={**STATES, **dict.fromkeys(Failure, "red")}),
    Column("model", optional=True),
    Column("prompt", flexible=True),
)


def watch(
    task_id: TaskId,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the final task as JSON, and the timeline on stderr.")
    ] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Print the timeline of a task until it is final. The exit code is 1 unless its image is stored."""
    console = Console(stderr=as_json, soft_wrap=True)
    with connect(from_environment(), url, key) as client:
        task = ask_json(client, "GET", task_path(task_id))
        task = follow(console, client, task)
    if as_json:
        print_json(task)
    require_stored(task)


def tasks(
    status: Annotated[
        list[str] | None,
        typer.Option(help="Show only tasks in this state. Repeatable.", autocompletion=completion.states),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Show only tasks of this model.", autocompletion=completion.models)
    ] = None,
    user: Annotated[str | None, typer.Option(help="Show only tasks of this end user.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="Show only tasks with this pair. Repeatable.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Show only tasks with this text in the prompt.")] = None,
    after: After = None,
    before: Before = None,
    cursor: Annotated[str | None, typer.Option(help="Continue a list: what its end names.")] = None,
    limit: Limit = 20,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List tasks, newest first."""
    query = {
        "status": status or None,
        "model": model,
        "user": user,
        "metadata": metadata or None,
        "prompt_contains": text,
        "created_after": after,
        "created_before": before,
        "cursor": cursor,
        "limit": limit,
    }
    with connect(from_environment(), url, key) as client:
        page = ask_for_page(client, "/v1/tasks", query, "tasks")
    if as_json:
        print_json(page["tasks"])
    else:
        print_table(_COLUMNS, map(_row, page["tasks"]))
    if page.get("next_cursor"):
        typer.echo(f"there are older tasks: --cursor {page['next_cursor']}", err=True)


def _row(task: dict[str, Any]) -> tuple[Cell, ...]:
    state = task["failure"]["code"] if task["failure"] else task["status"]
    created = datetime.fromisoformat(task["created_at"])
    return created, task["id"], state, task["model"], task["params"]["prompt"]
