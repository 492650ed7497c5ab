"""Reads the rows of a batch from CSV or JSON Lines. Each row is a request for a task."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAX_ROWS = 100_000
_ADDRESSES = ("http://", "https://", "data:")


class BadInput(Exception):
    """The input cannot be read as a whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is written. `fields` has the values, which are texts in CSV, with the images among them."""

    number: int  # 1 is the first
    line: int  # in the file
    fields: Mapping[str, Any] = field(repr=False)
    is_text: bool  # all values are texts, as the fields of a form are
    fault: str | None = None  # why it cannot be read


def read(path: Path, defaults: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a file, each with the defaults for values that it does not give. Raises BadInput."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: save it as UTF-8") from error
    is_csv = path.suffix.lower() not in {".jsonl", ".ndjson", ".json"}
    rows = []
    for row in _csv(text, path) if is_csv else _json_lines(text):
        texts = {name: _as_text(value) for name, value in defaults.items()} if is_csv else defaults
        rows.append(Row(row.number, row.line, {**texts, **row.fields}, is_csv, row.fault))
        if len(rows) > _MAX_ROWS:
            raise BadInput(f"{path} has more than {_MAX_ROWS} rows: split it")
    if not rows:
        raise BadInput(f"{path} has no rows")
    return rows


def _csv(text: str, path: Path) -> Iterator[Row]:
    """Read CSV with a comma or, as some spreadsheets write it, a semicolon. An empty cell is a value not given."""
    head = text.partition("\n")[0]
    delimiter = ";" if ";" in head and "," not in head else "\t" if "\t" in head and "," not in head else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if not all(names) or len(set(names)) != len(names):
            raise BadInput(f"{path}: the first line must name the columns, each once")
        number = 0
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            fault = None
            if len(cells) > len(names):
                fault = f"has {len(cells)} cells, and there are {len(names)} columns: quote texts that have commas"
            given = {name: cell for name, cell in zip(names, cells, strict=False) if cell.strip()}
            yield Row(number, reader.line_num, given, is_text=True, fault=fault)
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}") from error


def _json_lines(text: str) -> Iterator[Row]:
    number = 0
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        number += 1
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            given = {name: member for name, member in value.items() if member is not None}
            yield Row(number, line, given, is_text=False)
        else:
            yield Row(number, line, {}, is_text=False, fault="is not a JSON object")


@dataclass(frozen=True, slots=True)
class Request:
    """A checked row: what is sent. `files` are images by the name of their field, a name as often as it has images.

    `key`: the Idempotency-Key, made of the row's number and content, so that the same row makes one task.
    """

    row: Row
    fields: Mapping[str, Any] = field(repr=False)
    files: Sequence[tuple[str, Path]]
    key: str


def request(row: Row, files: Sequence[tuple[str, Path]], fields: Mapping[str, Any], name: str) -> Request:
    """Return the request of a row. `name`: of the batch; another name makes other tasks. Raises OSError."""
    digest = hashlib.sha256(json.dumps([name, row.number, dict(fields)], sort_keys=True).encode())
    for field_name, path in files:
        digest.update(field_name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return Request(row, fields, files, f"batch-{digest.hexdigest()[:40]}")


def is_address(value: str) -> bool:
    return value.lower().startswith(_ADDRESSES)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
