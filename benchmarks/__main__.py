"""`make bench`: how fast the service is on this machine, beside what bounds it."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from app.errors import ConfigurationError, FluxhookError
from benchmarks.chart import svg as drawn
from benchmarks.report import DATABASES, document, text
from benchmarks.run import Options, run
from benchmarks.two_sizes import FEWEST


def bench(
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there as JSON.")] = None,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the closed loop there.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=50, help="Rounds of ratios. Default: 4; 1 if quick.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Measure this case alone; repeatable.")] = None,
    crash: Annotated[int | None, typer.Option(min=1, max=1000, help="So many kills under load. Default: 20.")] = None,
    slow_flush: Annotated[
        float | None, typer.Option(metavar="MS", min=0, max=1000, help="Also with flushes that take longer.")
    ] = None,
    growth: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=FEWEST, help="Also with a record of N tasks beside a small one: minutes, 5 kB a task."
        ),
    ] = None,
    postgres: Annotated[str | None, typer.Option(metavar="DSN", help="A server to make databases on.")] = None,
    connections: Annotated[int, typer.Option(min=1, max=500, help="Kept connections of the generator.")] = 32,
    seconds: Annotated[float | None, typer.Option(min=0.1, max=60, help="Seconds of one measurement.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="The three most telling cases, in under a minute.")] = False,
) -> None:
    """Measure callbacks on this machine beside bare uvicorn, a bare FastAPI route and a naive receiver."""
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
        svg.write_text(drawn(results))
    raise typer.Exit(1 if any((results[name] or {}).get("unstored") for name in DATABASES) else 0)


def main() -> int:
    """Run the benchmark; a wrong option ends it with one sentence and exit code 2."""
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
