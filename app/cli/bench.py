"""`bench`: how fast the service is on this machine, beside what bounds it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from app.bench.report import document, text
from app.bench.run import Options, run


def bench(
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the figures there as JSON.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=50, help="Rounds of the closed loop. Default: 4.")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Measure this case alone; repeatable.")] = None,
    connections: Annotated[int, typer.Option(min=1, max=500, help="Kept connections of the generator.")] = 32,
    postgres: Annotated[str | None, typer.Option(metavar="DSN", help="A server to make databases on.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, max=60, help="Seconds of one measurement.")] = None,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="The three most telling cases, in less than a minute.")
    ] = False,
) -> None:
    """Measure callbacks on this machine beside bare uvicorn, a bare FastAPI route and a naive receiver."""
    options = Options(
        quick=quick,
        rounds=rounds,
        only=tuple(only or ()),
        connections=connections,
        seconds=seconds,
        postgres=postgres,
    )
    began = time.monotonic()
    results = run(options, lambda line: typer.echo(f"{time.monotonic() - began:5.0f} s  {line}", err=True))
    typer.echo(text(results), nl=False)
    if json is not None:
        json.write_text(document(results))
    raise typer.Exit(1 if any((results[name] or {}).get("unstored") for name in ("sqlite", "postgres")) else 0)
