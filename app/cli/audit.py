"""`audit`: the record of administrative actions, and the check of its chain."""

from collections.abc import Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import httpx
import typer

from app.cli.api import ask_for_page, connect
from app.cli.failure import fail
from app.cli.options import AsJson, Key, Url
from app.cli.output import print_json
from app.cli.table_printer import Column, print_table
from app.rules.audit_chain import AuditRecord, verify
from app.settings import from_environment

_PAGE = 1000
_SHOWN_FAULTS = 20
_COLUMNS = (
    Column("at"),
    Column("key_id"),
    Column("address", optional=True),
    Column("action"),
    Column("subject"),
    Column("detail", optional=True, flexible=True),
)

audit = typer.Typer(help="List administrative actions, and check that no record was changed.", no_args_is_help=True)


@dataclass(frozen=True, slots=True)
class _Entry:
    record: AuditRecord
    previous: str
    digest: str


@audit.command("list")
def list_records(
    subject: Annotated[str | None, typer.Option(help="Show only records about this object, by its ID.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=_PAGE, help="The maximum number of records.")] = 50,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """List administrative actions, newest first."""
    with connect(from_environment(), url, key) as client:
        rows = ask_for_page(client, "/v1/audit", {"subject": subject, "limit": limit}, "records")["records"]
    if as_json:
        print_json(rows)
        return
    print_table(_COLUMNS, ([_cell(row[column.name]) for column in _COLUMNS] for row in rows))


@audit.command("verify")
def verify_chain(
    head: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="A head printed earlier, which must still be in the chain.")
    ] = None,
    *,
    url: Url = None,
    key: Key = None,
) -> None:
    """Check every record. The exit code is 1 if one was changed, removed, added or moved.

    The last line names the head. Note it elsewhere: records that are missing at the end show only with --head.
    """
    with connect(from_environment(), url, key) as client:
        result = verify(_all_records(client), head)
    if result.faults:
        shown = "; ".join(result.faults[:_SHOWN_FAULTS])
        more = f"; and {len(result.faults) - _SHOWN_FAULTS} more" if len(result.faults) > _SHOWN_FAULTS else ""
        fail(f"the audit was tampered with: {shown}{more}")
    records = "1 record is" if result.records == 1 else f"{result.records} records are"
    typer.echo(f"{records} intact; the head is {result.head}")


def _all_records(client: httpx.Client) -> Generator[_Entry]:
    """Yield all records, newest first, a page in memory at a time."""
    cursor: int | None = None
    while True:
        page = ask_for_page(client, "/v1/audit", {"limit": _PAGE, "cursor": cursor}, "records")
        yield from map(_entry, page["records"])
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _entry(row: dict[str, Any]) -> _Entry:
    members = {name: row[name] for name in AuditRecord.__slots__}
    record = AuditRecord(**{**members, "at": datetime.fromisoformat(row["at"])})
    return _Entry(record, row["previous"], row["digest"])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {shown}" for name, shown in value.items())
    return "" if value is None else str(value)
