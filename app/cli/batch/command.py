"""`submit --from`: reads and checks the file, runs the batch with a progress bar, and sums up."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from app.cli.answers import ModelsAnswer, get
from app.cli.api import client_options, connect
from app.cli.batch import journal as journals
from app.cli.batch.calls import BatchStopped, Calls
from app.cli.batch.check import Checked, check, model_of
from app.cli.batch.rows import BadInput, read
from app.cli.batch.run import Batch, Done
from app.cli.failure import fail
from app.cli.output import one_line, print_json
from app.settings import Settings

_SHOWN = 20  # faults and failures
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What the command line says. `defaults`: values for all rows that do not give them."""

    file: Path
    defaults: Mapping[str, Any]
    out: Path | None
    concurrency: int
    name: str
    check_only: bool
    retry_failed: bool
    resend_lost: bool
    as_json: bool

    @property
    def journal(self) -> Path:
        return self.file.with_name(f"{self.file.name}.journal")


def submit_batch(options: BatchOptions, settings: Settings, url: str | None, key: str | None) -> None:
    """Submit all rows, and end the command with code 0 if all images are stored, else with 1."""
    checked = _checked(options, settings, url, key)
    price = f"about {checked.credits:g} credits (USD {checked.credits / 100:.2f})"
    unknown = f", and {checked.unpriced} rows of unknown price" if checked.unpriced else ""
    typer.echo(f"{len(checked.requests)} rows, {price}{unknown} at most", err=True)
    if options.check_only:
        return
    if options.out is not None:
        _require_folder(options.out)
    try:
        with journals.opened(options.journal) as journal:
            done, stopped = _run(options, checked, journal, client_options(settings, url, key))
    except journals.InUse as error:
        fail(str(error), error)
    _sum_up(options, checked, done, stopped)


def _checked(options: BatchOptions, settings: Settings, url: str | None, key: str | None) -> Checked:
    """Check the file. A fault ends the command before anything is sent."""
    try:
        rows = read(options.file, options.defaults)
    except BadInput as error:
        fail(str(error), error)
    with connect(settings, url, key) as client:
        models = [model_of(view) for view in get(client, "/v1/models", ModelsAnswer).models]
    checked = check(rows, models, options.file.parent, options.name)
    if checked.faults:
        for fault in checked.faults[:_SHOWN]:
            typer.echo(f"fluxhook: {one_line(fault)}", err=True)
        more = f", of which {_SHOWN} are shown" if len(checked.faults) > _SHOWN else ""
        count = "1 row is" if len(checked.faults) == 1 else f"{len(checked.faults)} rows are"
        fail(f"{count} wrong{more}; nothing was sent: correct {options.file} and repeat the command")
    return checked


def _require_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".fluxhook.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be written: {error.strerror}", param_hint="--out") from error


def _run(
    options: BatchOptions, checked: Checked, journal: journals.Journal, client: dict[str, Any]
) -> tuple[Sequence[Done], str | None]:
    """Run the batch. Return what came of the rows, and why it stopped before its end, if it did."""
    console = Console(stderr=True, highlight=False)
    progress = _progress(console)
    bar = None if progress is None else progress.add_task("stored", total=len(checked.requests), failed=0)
    batch: Batch | None = None

    def say(text: str) -> None:
        console.print(one_line(text), markup=False)

    def show(done: Done) -> None:
        if done.problem is not None:
            say(f"row {done.request.row.number}: {done.problem}")
        elif progress is None and not done.was_known:
            say(f"row {done.request.row.number}: stored {done.file or done.task_id}")
        if progress is not None and bar is not None and batch is not None:
            failed = sum(one.problem is not None for one in batch.done)
            progress.update(bar, advance=1, failed=failed)

    async def run() -> None:
        nonlocal batch
        limits = httpx.Limits(max_connections=options.concurrency + 1)
        async with httpx.AsyncClient(**client, limits=limits) as http:
            batch = Batch(
                Calls(http, say),
                journal,
                options.out,
                show,
                retry_failed=options.retry_failed,
                resend_lost=options.resend_lost,
            )
            await batch.run(checked.requests, options.concurrency)

    stopped = None
    try:
        with progress or nullcontext():
            asyncio.run(run())
    except KeyboardInterrupt:
        stopped = "interrupted"
    except BatchStopped as error:
        stopped = error.detail
    return (batch.done if batch is not None else []), stopped


def _progress(console: Console) -> Progress | None:
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.completed} of {task.total}, {task.fields[failed]} failed"), BarColumn())
    return Progress(*columns, TaskProgressColumn(), TimeElapsedColumn(), console=console)


def _sum_up(options: BatchOptions, checked: Checked, done: Sequence[Done], stopped: str | None) -> None:
    """Print the summary, how to go on, and end with the exit code."""
    total = len(checked.requests)
    failed = [one for one in done if one.problem is not None]
    stored = len(done) - len(failed)
    cost = sum(one.cost or 0 for one in done)
    if options.as_json:
        print_json(_as_json(total, done, cost, stopped))
    else:
        new = sum(one.problem is None and not one.was_known for one in done)
        typer.echo(f"{total} rows: {stored} stored ({new} now), {len(failed)} failed, {total - len(done)} not finished")
        typer.echo(f"cost: {cost:g} credits (USD {cost / 100:.2f})")
        for reason, count in Counter((one.problem or "").partition(":")[0] for one in failed).most_common(_SHOWN):
            typer.echo(f"failed: {one_line(reason)}{f' ({count} rows)' if count > 1 else ''}")
    if stored == total:
        return
    if stopped == "interrupted":
        typer.echo("Interrupted; tasks in progress go on in the service, and nothing is lost.", err=True)
    elif stopped is not None:
        typer.echo(f"fluxhook: {stopped}", err=True)
    retry = "" if not failed or options.retry_failed else "; --retry-failed makes new attempts, which may cost again"
    typer.echo(f"Repeat the command to continue from {options.journal}{retry}.", err=True)
    raise typer.Exit(_INTERRUPTED if stopped == "interrupted" else 1)


def _as_json(total: int, done: Sequence[Done], cost: float, stopped: str | None) -> dict[str, Any]:
    rows = [
        {
            "row": one.request.row.number,
            "task_id": one.task_id,
            "file": one.file,
            "cost": one.cost,
            "problem": one.problem,
        }
        for one in sorted(done, key=lambda one: one.request.row.number)
    ]
    return {"rows": rows, "total": total, "cost": cost, "stopped": stopped}
