"""Ends a command with one sentence on stderr."""

from typing import NoReturn

import typer


def fail(sentence: str, cause: BaseException | None = None) -> NoReturn:
    """Print why the command cannot go on and what to do next, and end it with exit code 1."""
    typer.echo(f"fluxhook: {sentence}", err=True)
    raise typer.Exit(1) from cause
