"""Prints lists of records as tables."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> None:
    """Print rows of text below the names of the columns.

    The width is fixed, because an ID that the terminal's width truncates cannot be copied.
    """
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=width, highlight=False).print(table)
