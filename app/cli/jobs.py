"""`jobs`: what was set aside after its last try, and having it run again."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.api import ask, connect
from app.cli.client import Key, Url
from app.settings import from_environment


def jobs(
    requeue: Annotated[int | None, typer.Option(metavar="ID", help="Have this one run again.")] = None,
    *,
    requeue_all: Annotated[bool, typer.Option("--requeue-all", help="Have all of them run again.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List the jobs that were set aside after their last try, or have them run again."""
    with connect(from_environment(), url, key) as client:
        if requeue_all or requeue is not None:
            path = "/v1/jobs/held/requeue" if requeue is None else f"/v1/jobs/held/{requeue}/requeue"
            typer.echo(f"{ask(client, 'POST', path).json()['requeued']} run again")
            return
        found = ask(client, "GET", "/v1/jobs/held").json()["jobs"]
    table = Table("id", "step", "task", "failures", "error", box=None, pad_edge=False)
    for job in found:
        table.add_row(str(job["id"]), job["step"], job["task_id"], str(job["failures"]), job["error"] or "")
    Console(width=120, highlight=False).print(table)
