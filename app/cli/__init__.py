"""The command line `fluxhook`. Related commands share a file; `commands` assembles them."""

import gc
import os
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from app import __version__
from app.errors import ConfigurationError, FluxhookError


class _Command(NamedTuple):
    """The file of a command, and its first sentence for the list of commands."""

    file: str
    summary: str
    is_group: bool = False  # it has commands of its own


# Only the file of the requested command is imported: `serve` starts in half the time, and the list of commands, which
# needs none of them, in a tenth. A test compares the sentences with those of the commands.
_COMMANDS: Mapping[str, _Command] = {
    "serve": _Command("serve", "Run the service: the API and, unless --no-worker is given, the worker."),
    "work": _Command("work", "Run a worker without the API. Any number of workers can share one PostgreSQL database."),
    "migrate": _Command("serve", "Update the database schema to this version."),
    "twin": _Command(
        "twin", "Run a stand-in for the provider: BFL at /v1, GPTProto at /flux/v1, with any API key except `bad`."
    ),
    "demo": _Command("demo", "Run the service with a stand-in for the provider, and show two tasks. Needs no API key."),
    "submit": _Command(
        "client", "Submit a task and print its ID. With --wait or --out, the exit code is 1 unless the image is stored."
    ),
    "watch": _Command(
        "tasks", "Print the timeline of a task until it is final. The exit code is 1 unless its image is stored."
    ),
    "tasks": _Command("tasks", "List tasks, newest first."),
    "show": _Command("show", "Show a task: what it is, what happened to it, and what happens next and when."),
    "cancel": _Command(
        "actions", "Cancel a queued task. A task that the provider already has goes on, and its result is kept."
    ),
    "resubmit": _Command("actions", "Make a new attempt for a failed task, which may cost again."),
    "delete": _Command("actions", "Erase a final task with its images and all evidence. Its cost stays in the usage."),
    "usage": _Command(
        "usage",
        "Show the tasks of a period by API key and model, and their cost in credits. Default: the last 30 days.",
    ),
    "jobs": _Command("jobs", "List dead letters, the jobs that have used up their tries, or return them to the queue."),
    "callbacks": _Command("admin", "List callbacks of the provider, newest first."),
    "deliveries": _Command("admin", "List webhook deliveries, newest first, or show one with its attempts."),
    "replay": _Command("admin", "Send webhooks again: one delivery, or all that failed in a time range."),
    "keys": _Command("admin", "List, create and disable API keys.", is_group=True),
    "apps": _Command("apps", "List, create, show, change, disable and enable applications.", is_group=True),
    "audit": _Command("audit", "List administrative actions, and check that no record was changed.", is_group=True),
    "doctor": _Command(
        "doctor.command",
        "Check the configuration and what the service depends on. The exit code is 1 if a finding is unhealthy.",
    ),
    "verify-callback": _Command(
        "verifying.command",
        "Say whether a callback proves its origin, which check fails, and the likely cause.",
    ),
    "probe": _Command(
        "probing.command",
        "Submit one cheap task to the provider and report how it behaves, without secrets or prompts.",
    ),
    "models": _Command("models", "List the models of the catalog, or the parameters of one."),
    "accounts": _Command(
        "accounts",
        "List the provider accounts with their slots, balances and pauses, in the order in which they get tasks.",
    ),
}
_UNUSED = ("rich", "httpx._main")  # by the libraries of the service: a twelfth of the start
# These run until they are stopped. Their unexpected errors are for a log, so they show where they occurred.
_PROCESSES = frozenset({"serve", "work", "migrate", "twin", "demo"})
_COMPLETE = "_FLUXHOOK_COMPLETE"  # set by the script that a shell runs to complete a command line
_INTERRUPTED = 130


def commands(requested: str | None = None) -> typer.Typer:
    """Return the command line with all commands, or with the requested one only.

    If there is no command of that name, it has all names, which can be listed but not run.
    """
    cli = typer.Typer(
        name="fluxhook",
        help="A self-hosted job gateway for FLUX image tasks.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        # A traceback with local variables could show keys.
        pretty_exceptions_enable=False,
    )
    cli.callback()(_options)
    for name, listed in _COMMANDS.items():
        if requested in {None, name}:
            _import_without_rich("httpx", *(["structlog"] if name in _PROCESSES else []))
            command = getattr(import_module(f"app.cli.{listed.file}"), name.replace("-", "_"))
        elif requested not in _COMMANDS:
            command = typer.Typer(help=listed.summary, callback=_not_imported) if listed.is_group else _not_imported
        else:
            continue
        if isinstance(command, typer.Typer):
            cli.add_typer(command, name=name)
        else:
            cli.command(name, help=listed.summary if command is _not_imported else None)(command)
    cli.command()(version)
    return cli


def _import_without_rich(*libraries: str) -> None:
    """Import libraries without Rich and Pygments, which they load for command lines and tracebacks of their own."""
    if "rich" in sys.modules:
        return
    sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type] # an import of it raises ModuleNotFoundError
    for library in libraries:
        import_module(library)
    for name in _UNUSED:
        del sys.modules[name]


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _not_imported() -> None:
    raise AssertionError("unreachable: this command line only lists the names")


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
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # for terminals that are not UTF-8
    requested = _requested()
    try:
        gc.disable()  # imported modules stay, and looking for garbage among them takes a fifth of the start
        cli = commands(requested)
        gc.freeze()
        gc.enable()
        cli(prog_name="fluxhook")
    except FluxhookError as error:
        typer.echo(f"fluxhook: {error.detail}", err=True)
        return 2 if isinstance(error, ConfigurationError) else 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except OSError as error:
        if requested in _PROCESSES:
            raise
        _drop_output()
        typer.echo(f"fluxhook: {error.strerror or type(error).__name__}: {error.filename or 'the output'}", err=True)
        return 1
    except Exception as error:
        if requested in _PROCESSES:
            raise
        typer.echo(f"fluxhook: unexpected error {type(error).__name__} in {_place(error)}: please report it", err=True)
        return 1
    return 0


def _requested() -> str:
    """Return the command of the command line that is run or, by a shell, completed; empty without a complete one."""
    if _COMPLETE not in os.environ:
        return next(iter(sys.argv[1:]), "")
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    words = line.split()
    at_command = len(words) + line[-1:].isspace() < 3  # noqa: PLR2004 - the program, the command, and what follows
    return "" if at_command else words[1]


def _drop_output() -> None:
    """Discard what cannot be written to stdout: the interpreter would try again at its end, and report it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _place(error: BaseException) -> str:
    """Return file and line of an error, without its message, which may hold anything."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return "an unknown place"
    return f"{os.path.basename(traceback.tb_frame.f_code.co_filename)}:{traceback.tb_lineno}"  # noqa: PTH119
