"""`jobs`: lists dead letters and returns them to the queue."""

from typing import Annotated

import typer

from app.cli.api import ask_for_page, ask_json, connect
from app.cli.options import AsJson, Key, Url
from app.cli.output import print_json
from app.cli.table_printer import Column, print_table
from app.settings import from_environment

_COLUMNS = ("id", "step", "task", Column("failures", optional=True), Column("error", flexible=True))


def jobs(
    requeue: Annotated[int | None, typer.Option(metavar="ID", help="Return this dead letter to the queue.")] = None,
    *,
    requeue_all: Annotated[bool, typer.Option("--requeue-all", help="Return all dead letters to the queue.")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List dead letters, the jobs that have used up their tries, or return them to the queue."""
    with connect(from_environment(), url, key) as client:
        if requeue_all or requeue is not None:
            path = "/v1/jobs/held/requeue" if requeue is None else f"/v1/jobs/held/{requeue}/requeue"
            answer = ask_json(client, "POST", path)
            if as_json:
                print_json(answer)
                return
            count = answer["requeued"]
            typer.echo("1 job is queued again" if count == 1 else f"{count} jobs are queued again")
            return
        dead_letters = ask_for_page(client, "/v1/jobs/held", {}, "jobs")["jobs"]
    if as_json:
        print_json(dead_letters)
        return
    rows = [(job["id"], job["step"], job["task_id"], job["failures"], job["error"]) for job in dead_letters]
    print_table(_COLUMNS, rows)
