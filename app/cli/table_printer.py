"""Prints lists of records: as tables on a terminal, elsewhere as lines of fields that are separated by tabs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app import clock
from app.cli.output import one_line

Cell: TypeAlias = str | int | float | datetime | None

STATES: Mapping[str, str] = {
    **dict.fromkeys(("stored", "delivered", "signed", "shared_secret"), "green"),
    **dict.fromkeys(("failed", "cancelled", "forged", "rejected"), "red"),
    **dict.fromkeys(("queued", "submitting", "submitted", "ready", "waiting", "unproven"), "yellow"),
}
_GAP = 2
_MIN_FLEXIBLE = 8
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


@dataclass(frozen=True, slots=True)
class Column:
    """A column. A terminal that is too narrow leaves out the `optional` ones, then shortens the `flexible` ones.

    The text of a column that `wraps` is not shortened but broken into lines.
    """

    name: str
    flexible: bool = False
    wraps: bool = False
    optional: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)  # of cells, by their text


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print records below the names of the columns.

    On a terminal, times are shown as ages and the table fits its width; IDs are never shortened, because they are
    copied. Elsewhere nothing is shortened, and times are UTC in ISO 8601.
    """
    named = [column if isinstance(column, Column) else Column(column) for column in columns]
    console = Console(highlight=False)
    if console.is_terminal:
        now = clock.utc_now()
        texts = [[_for_people(cell, now) for cell in row] for row in rows]
        # A terminal that is too narrow breaks the lines, so that IDs can still be copied.
        console.print(_fitted(named, texts, console.width), crop=False, soft_wrap=True)
        return
    typer.echo("\t".join(column.name for column in named))
    for row in rows:
        typer.echo("\t".join(map(_for_programs, row)))


def _fitted(columns: list[Column], rows: list[list[str]], width: int) -> Table:
    """Return the table with the columns that fit into the width."""
    natural = [max(map(cell_len, texts)) for texts in zip([c.name for c in columns], *rows, strict=True)]
    widths = [min(size, _MIN_FLEXIBLE) if c.flexible else size for c, size in zip(columns, natural, strict=True)]
    kept = list(range(len(columns)))

    def left() -> int:
        return width - sum(widths[i] + _GAP for i in kept) + _GAP

    for index in reversed([i for i in kept if columns[i].optional]):
        if left() < 0:
            kept.remove(index)
    for index in kept:
        widths[index] = min(natural[index], widths[index] + max(0, left()))
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), width=width - left())
    for i in kept:
        table.add_column(
            columns[i].name,
            overflow="fold" if columns[i].wraps else "ellipsis",
            no_wrap=not columns[i].wraps,
            width=widths[i],
        )
    for row in rows:
        table.add_row(*(Text(row[i], columns[i].styles.get(row[i], "")) for i in kept))
    return table


def _for_people(cell: Cell, now: datetime) -> str:
    return age(now - cell) if isinstance(cell, datetime) else _text(cell)


def _for_programs(cell: Cell) -> str:
    return cell.isoformat(timespec="seconds").replace("+00:00", "Z") if isinstance(cell, datetime) else _text(cell)


def _text(cell: Cell) -> str:
    if isinstance(cell, float):
        return f"{cell:g}"
    return "" if cell is None else one_line(str(cell))


def age(elapsed: timedelta) -> str:
    """Return a duration in its largest unit, such as `5 min`; below a minute in seconds."""
    seconds = max(0, int(elapsed.total_seconds()))
    return next((f"{seconds // size} {unit}" for size, unit in _UNITS if seconds >= size), f"{seconds} s")
