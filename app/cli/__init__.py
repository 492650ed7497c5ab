"""The command `fluxhook`: one file for each kind of command, put together here."""

import gc
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated

import typer

from app import __version__
from app.errors import ConfigurationError, FluxhookError

# Each brings in what it needs, so only the one that was asked for is loaded: `serve` starts in half the time.
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
}
_NEED_NO_FILE = ("version", "--version")


def commands(asked: str | None = None) -> typer.Typer:
    """The command line: with the command that was asked for, or with all when that is none of them."""
    cli = typer.Typer(
        name="fluxhook",
        help="A job gateway for FLUX Kontext image tasks.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        # A traceback with local variables would show keys.
        pretty_exceptions_enable=False,
    )
    cli.callback()(_options)
    for name, file in _FILES.items():
        if asked in _NEED_NO_FILE or (asked in _FILES and name != asked):
            continue
        found = getattr(import_module(f"app.cli.{file}"), name)
        if isinstance(found, typer.Typer):
            cli.add_typer(found, name=name)
        else:
            cli.command()(found)
    cli.command()(version)
    return cli


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Declare the options that stand before a command."""


def main() -> int:
    """Run a command; settings that cannot work end it with their mend and exit code 2."""
    # The first process of a container has no default that ends it; serving and working set their own later.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    gc.disable()  # what is loaded stays, and looking for garbage in it takes a tenth of the start
    cli = commands(next(iter(sys.argv[1:]), None))
    gc.enable()
    try:
        cli(standalone_mode=True)
    except FluxhookError as error:
        typer.echo(f"fluxhook: {error.detail}", err=True)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0
