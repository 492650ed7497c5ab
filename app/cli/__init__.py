"""The command line `fluxhook`. Related commands share a file; `commands` assembles them."""

import gc
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated

import typer

from app import __version__
from app.errors import ConfigurationError, FluxhookError

# The file of each command. Only that of the requested command is imported: `serve` starts in half the time.
_FILES: Mapping[str, str] = {
    "serve": "serve",
    "work": "work",
    "migrate": "serve",
    "twin": "twin",
    "demo": "demo",
    "submit": "client",
    "watch": "client",
    "tasks": "client",
    "jobs": "jobs",
    "callbacks": "admin",
    "deliveries": "admin",
    "replay": "admin",
    "keys": "admin",
    "doctor": "doctor",
    "models": "models",
}
_NEED_NO_FILE = ("version", "--version")


def commands(requested: str | None = None) -> typer.Typer:
    """Return the command line with the requested command only, or with all commands if the name is unknown."""
    cli = typer.Typer(
        name="fluxhook",
        help="A self-hosted job gateway for FLUX image tasks.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        # A traceback with local variables could show keys.
        pretty_exceptions_enable=False,
    )
    cli.callback()(_options)
    for name, file in _FILES.items():
        if requested in _NEED_NO_FILE or (requested in _FILES and name != requested):
            continue
        command = getattr(import_module(f"app.cli.{file}"), name)
        if isinstance(command, typer.Typer):
            cli.add_typer(command, name=name)
        else:
            cli.command()(command)
    cli.command()(version)
    return cli


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _print_version(requested: bool) -> None:
    if requested:
        version()
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options that precede a command."""


def main() -> int:
    """Run a command. Return exit code 2 for invalid settings, whose error names the remedy, and 1 for other errors."""
    # Without a handler, process 1 of a container ignores SIGTERM. `serve` and `work` install their own later.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    gc.disable()  # imported modules stay, and looking for garbage among them takes a tenth of the start
    cli = commands(next(iter(sys.argv[1:]), None))
    gc.enable()
    try:
        cli(standalone_mode=True)
    except FluxhookError as error:
        typer.echo(f"fluxhook: {error.detail}", err=True)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0
