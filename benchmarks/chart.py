"""A chart of the closed-loop case: the rate of each server as a bar, for each database. Pure: results in, SVG out."""

from collections.abc import Mapping
from html import escape
from typing import Any

from benchmarks.report import DATABASES, number

_SERVERS = {
    "bare": "bare uvicorn",
    "hmac": "FastAPI, HMAC only",
    "naive": "naive receiver",
    "ours": "Fluxhook",
}
_WIDTH, _LABEL, _BAR, _GAP, _HEAD = 720, 170, 22, 8, 46
_LONGEST = _WIDTH - _LABEL - 120  # leaves space for the number after the bar
_COLOURS = {"ours": "#1f6f54"}
_OTHERS = "#9aa5a1"


def svg(results: Mapping[str, Any]) -> str:
    """Render the chart; a database without the closed-loop case is left out."""
    panels = [(name, results[name]) for name in DATABASES if "ours_rate" in (results.get(name) or {})]
    height = _HEAD * len(panels) + len(panels) * len(_SERVERS) * (_BAR + _GAP) + _GAP
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif"'
            ' font-size="13">'
        ),
        "<title>Callbacks per second, all connections busy</title>",
    ]
    top = 0
    for name, figures in panels:
        parts += _panel(name, figures, top)
        top += _HEAD + len(_SERVERS) * (_BAR + _GAP)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(name: str, figures: Mapping[str, float], top: int) -> list[str]:
    title = f"{name}: {number(figures['share_of_bare'])} of bare, {number(figures['times_naive'])} times naive"
    parts = [_text(0, top + 28, title, "bold")]
    highest = max(figures[f"{server}_rate"] for server in _SERVERS) or 1
    for index, (server, label) in enumerate(_SERVERS.items()):
        rate, y = figures[f"{server}_rate"], top + _HEAD + index * (_BAR + _GAP)
        length = max(1, round(_LONGEST * rate / highest))
        colour = _COLOURS.get(server, _OTHERS)
        parts += [
            _text(0, y + 16, label),
            f'<rect x="{_LABEL}" y="{y}" width="{length}" height="{_BAR}" fill="{colour}"/>',
            _text(_LABEL + length + 8, y + 16, f"{number(round(rate))}/s"),
        ]
    return parts


def _text(x: int, y: int, words: str, weight: str = "normal") -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}">{escape(words)}</text>'
