"""Times on the command line: an instant, a date, or how long ago."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from app import clock

_AGO = re.compile(r"(\d{1,6}) ?(s|min|m|h|d|w)")
_UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "give a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, or an age such as 2h, 30min or 7d"


def instant(text: str) -> str:
    """Return a time in the form of the API, in UTC. A time without a zone is local. Raises BadParameter."""
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            at = clock.utc_now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            at = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(_FORMS) from None
    return at.isoformat().replace("+00:00", "Z")


After = Annotated[
    str | None, typer.Option(parser=instant, metavar="TIME", help="Only since this time: an instant, a date, or `2h`.")
]
Before = Annotated[str | None, typer.Option(parser=instant, metavar="TIME", help="Only before this time.")]
