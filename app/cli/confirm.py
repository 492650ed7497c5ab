"""Questions before a command spends money or removes something."""

import sys
from typing import Annotated

import typer

from app.cli.failure import fail

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal, unless `yes`. Without a terminal, or with the answer no, the command ends."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Add --yes: there is no terminal to ask on")
    if not typer.confirm(question, err=True):
        fail("nothing was done")
