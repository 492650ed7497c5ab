"""`usage`: the tasks that were posted in a period, and their cost."""

from app.cli.answers import UsageAnswer, read
from app.cli.api import ask_json, connect
from app.cli.options import AsJson, Key, Url
from app.cli.output import print_json
from app.cli.table_printer import Cell, Column, print_table
from app.cli.times import After, Before
from app.rules.usage import Used
from app.settings import from_environment

_COUNTS = ("posted", "stored", "failed", "cancelled", "open")
_COLUMNS = (
    Column("key", flexible=True),
    "model",
    "posted",
    "stored",
    "failed",
    Column("cancelled", optional=True),
    Column("open", optional=True),
    "credits",
    Column("cost_unknown", optional=True),
)


def usage(
    after: After = None, before: Before = None, *, as_json: AsJson = False, url: Url = None, key: Key = None
) -> None:
    """Show the tasks of a period by API key and model, and their cost in credits. Default: the last 30 days."""
    period = {name: at for name, at in (("from", after), ("to", before)) if at is not None}
    with connect(from_environment(), url, key) as client:
        answer = ask_json(client, "GET", "/v1/usage", params=period)
        if as_json:
            print_json(answer)
            return
        used = read(UsageAnswer, answer, str(client.base_url)).usage
    print_table(_COLUMNS, [*map(_row, used), *([_total(used)] if len(used) > 1 else [])])


def _row(used: Used) -> tuple[Cell, ...]:
    counts = (used.posted, used.stored, used.failed, used.cancelled, used.open)
    return (used.key_name or used.key_id, used.model, *counts, used.cost, used.cost_unknown)


def _total(used: list[Used]) -> tuple[Cell, ...]:
    def total(name: str) -> Cell:
        numbers: list[float] = [getattr(row, name) for row in used]
        return sum(numbers)

    return ("total", "", *map(total, (*_COUNTS, "cost", "cost_unknown")))
