"""Values as text for people: times, durations, sizes and credits."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from markupsafe import Markup

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_KB = 1000


def when(at: datetime) -> Markup:
    """Return an instant in UTC, to the second."""
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), at.strftime("%d %b %Y, %H:%M:%S"))


def when_short(at: datetime) -> Markup:
    """Return an instant in UTC without its year."""
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), at.strftime("%d %b %H:%M:%S"))


def day(at: datetime) -> Markup:
    """Return the day of an instant in UTC."""
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), at.strftime("%d %b %Y"))


def span(length: timedelta | float) -> str:
    """Return a duration in the two largest units that matter, such as `1.53 s` or `2 h 5 min`."""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    for unit, name, smaller, small_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if seconds >= unit:
            rest = int(seconds % unit // smaller)
            return f"{int(seconds // unit)} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError("unreachable: a minute is the smallest unit above")


def size(count: int) -> str:
    """Return a number of bytes, such as `1.3 MB`."""
    if count < _KB:
        return f"{count} bytes"
    return f"{count / _KB:.0f} kB" if count < _KB**2 else f"{count / _KB**2:.1f} MB"


def number(value: float) -> str:
    """Return a number with separators between thousands, and no decimals that are zero."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def plain(name: str) -> str:
    """Return the name of a state or code as words."""
    return name.replace("_", " ")


def marked(text: str) -> Markup:
    """Return a text with what is between backticks as code."""
    plain_text, code = Markup("{}"), Markup("<code>{}</code>")
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one without a partner
        return plain_text.format(text)
    return Markup("").join((code if number % 2 else plain_text).format(part) for number, part in enumerate(parts))


FILTERS: Mapping[str, Callable[[Any], Any]] = {
    "when": when,
    "when_short": when_short,
    "day": day,
    "span": span,
    "size": size,
    "number": number,
    "plain": plain,
    "marked": marked,
}
