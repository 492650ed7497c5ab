"""Usage as CSV (RFC 4180), with a head line."""

import csv
import io
from collections.abc import Mapping, Sequence

from fastapi import Response

Cell = str | int | float | None
# A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_response(columns: Sequence[str], rows: Sequence[Mapping[str, Cell]], file_name: str) -> Response:
    """Return a download of these columns. A missing value is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    headers = {"content-disposition": f'attachment; filename="{file_name}"', "cache-control": "no-store"}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def _cell(value: Cell) -> Cell:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
