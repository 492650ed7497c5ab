"""`jobs`: lists dead letters and returns them to the queue."""

from typing import Annotated

import typer

from app.cli.api import ask, connect
from app.cli.client import Key, Url
from app.cli.table_printer import print_table
from app.settings import from_environment

_WIDTH = 120


def jobs(
    requeue: Annotated[int | None, typer.Option(metavar="ID", help="Return this dead letter to the queue.")] = None,
    *,
    requeue_all: Annotated[bool, typer.Option("--requeue-all", help="Return all dead letters to the queue.")] = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List dead letters, the jobs that have used up their tries, or return them to the queue."""
    with connect(from_environment(), url, key) as client:
        if requeue_all or requeue is not None:
            path = "/v1/jobs/held/requeue" if requeue is None else f"/v1/jobs/held/{requeue}/requeue"
            count = ask(client, "POST", path).json()["requeued"]
            typer.echo("1 job is queued again" if count == 1 else f"{count} jobs are queued again")
            return
        dead_letters = ask(client, "GET", "/v1/jobs/held").json()["jobs"]
    rows = [
        (str(job["id"]), job["step"], job["task_id"], str(job["failures"]), job["error"] or "") for job in dead_letters
    ]
    print_table(("id", "step", "task", "failures", "error"), rows, _WIDTH)
