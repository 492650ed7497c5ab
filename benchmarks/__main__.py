"""`make bench`: the command line of the benchmark."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from app.errors import ConfigurationError, FluxhookError
from benchmarks.chart import svg as draw
from benchmarks.report import DATABASES, document, text
from benchmarks.run import Options, run
from benchmarks.two_sizes import FEWEST


def bench(
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures to this file as JSON.")] = None,
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the closed-loop case to this file as SVG.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=50, help="Rounds per ratio. Default: 4; 1 with --quick.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Measure only this case; repeatable.")] = None,
    crash: Annotated[int | None, typer.Option(min=1, max=1000, help="Number of kills under load. Default: 20.")] = None,
    slow_flush: Annotated[
        float | None, typer.Option(metavar="MS", min=0, max=1000, help="Also measure with flushes delayed by MS ms.")
    ] = None,
    growth: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=FEWEST,
            help="Also compare a database of N tasks with a small one: takes minutes and 5 kB per task.",
        ),
    ] = None,
    postgres: Annotated[str | None, typer.Option(metavar="DSN", help="PostgreSQL server for the databases.")] = None,
    connections: Annotated[int, typer.Option(min=1, max=500, help="Connections of the load generator.")] = 32,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=60, help="Duration of one measurement in seconds.")
    ] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the three most informative cases, in less than a minute.")
    ] = False,
) -> None:
    """Compare callbacks on this machine with bare uvicorn, a minimal FastAPI route and a naive receiver."""
    for name, file in (("--json", json), ("--svg", svg)):
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise ConfigurationError(f"{name}: {file} is not a file that can be written")
    options = Options(
        quick=quick,
        rounds=rounds,
        only=tuple(only or ()),
        connections=connections,
        seconds=seconds,
        kills=crash,
        slow_flush_ms=slow_flush,
        tasks=growth,
        postgres=postgres,
    )
    began = time.monotonic()
    results = run(options, lambda line: typer.echo(f"{time.monotonic() - began:5.0f} s  {line}", err=True))
    typer.echo(text(results), nl=False)
    if json is not None:
        json.write_text(document(results))
    if svg is not None:
        svg.write_text(draw(results))
    raise typer.Exit(1 if any((results[name] or {}).get("unstored") for name in DATABASES) else 0)


def main() -> int:
    """Run the benchmark; a wrong option prints one sentence and exits with code 2."""
    cli = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    cli.command()(bench)
    try:
        cli(standalone_mode=True)
    except FluxhookError as error:
        typer.echo(f"bench: {error.detail}", err=True)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0


sys.exit(main())
