"""The command `fluxhook`: one file for each kind of command, put together here."""

import signal
import sys

import typer

from app import __version__
from app.cli import bench, client, demo, doctor, jobs, serving, webhooks, working
from app.errors import ConfigurationError, FluxhookError

cli = typer.Typer(
    name="fluxhook",
    help="A job gateway for FLUX Kontext image tasks.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback with local variables would show keys.
    pretty_exceptions_enable=False,
)
cli.command()(serving.serve)
cli.command()(working.work)
cli.command()(serving.migrate)
cli.command()(serving.twin)
cli.command()(demo.demo)
cli.command()(client.submit)
cli.command()(client.watch)
cli.command()(client.tasks)
cli.command()(jobs.jobs)
cli.command()(webhooks.deliveries)
cli.command()(webhooks.replay)
cli.add_typer(webhooks.keys, name="keys")
cli.command()(doctor.doctor)
cli.command()(bench.bench)


@cli.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> int:
    """Run a command; settings that cannot work end it with their mend and exit code 2."""
    # The first process of a container has no default that ends it; serving and working set their own later.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        cli(standalone_mode=True)
    except FluxhookError as error:
        typer.echo(f"fluxhook: {error.detail}", err=True)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0
