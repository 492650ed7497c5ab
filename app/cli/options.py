"""Options that several commands share."""

from typing import Annotated

import typer

from app.cli import completion
from app.settings import CLIENT_KEY, CLIENT_URL

Url = Annotated[
    str | None, typer.Option(envvar=CLIENT_URL, help="The URL of the service. Default: the configured host and port.")
]
Key = Annotated[
    str | None, typer.Option(envvar=CLIENT_KEY, help="An API key. Default: the admin key.", show_envvar=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="The maximum number of rows.")]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The ID of a task.", autocompletion=completion.task_ids)]
