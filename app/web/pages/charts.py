"""Charts as SVG: stacked bars with a scale. Pure; the template writes the elements, and the times as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.db.queries.overview import MAX_COUNTED, Bar

WIDTH, HEIGHT = 1000, 160  # of the drawing, which is stretched to its place
_GAP = 0.2  # of the place of a bar
_TIMES = 6


@dataclass(frozen=True, slots=True)
class Column:
    """One bar: its place, the heights of its two parts from the bottom, and what it says."""

    x: float
    width: float
    stored_y: float
    stored_height: float
    failed_y: float
    failed_height: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    columns: list[Column]
    times: list[str]  # below the bars, each at the beginning of an equal part
    top: str  # the value of the highest line; empty without a task
    summary: str
    width: int = WIDTH
    height: int = HEIGHT


def chart(bars: Sequence[Bar], form: str) -> Chart:
    """Draw bars from left to right. `form`: how `strftime` writes the time of a bar."""
    highest = max((bar.stored + bar.failed for bar in bars), default=0)
    scale = HEIGHT / max(highest, 1)
    place = WIDTH / max(len(bars), 1)
    columns = []
    for number, bar in enumerate(bars):
        stored, failed = round(bar.stored * scale, 1), round(bar.failed * scale, 1)
        x, width = round((number + _GAP / 2) * place, 1), round((1 - _GAP) * place, 1)
        text = f"{bar.begin.strftime(form)}: {_amount(bar.stored)} stored, {_amount(bar.failed)} failed"
        columns.append(Column(x, width, HEIGHT - stored, stored, HEIGHT - stored - failed, failed, text))
    every = max(1, len(bars) // _TIMES)
    return Chart(
        columns=columns,
        times=[bars[at].begin.strftime(form) for at in range(0, len(bars), every)],
        top=_amount(highest) if highest else "",
        summary=f"{_total(bars, 'stored')} stored and {_total(bars, 'failed')} failed",
    )


def _amount(count: int) -> str:
    return f"{count}+" if count >= MAX_COUNTED else str(count)


def _total(bars: Sequence[Bar], name: str) -> str:
    counts: list[int] = [getattr(bar, name) for bar in bars]
    return f"{sum(counts):,}{'+' if any(count >= MAX_COUNTED for count in counts) else ''}"
