"""The report of a run: the ratios first, then the figures behind them. Pure: results in, text out."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WHOLE_TASK = "whole task, "  # the paths of `growth` with a target, which is the ratio below
_MOST_GROWTH = 1.2
DATABASES = ("sqlite", "postgres")
# Keys that the JSON always has, null if not measured.
_PROMISED = ("share_of_bare", "times_naive", "p99_ms_at_1000", "lone_p50_ms", "unstored")

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Aim:
    """The target of a figure for each database: a minimum if `at_least`, else a maximum."""

    figure: str
    words: str
    sqlite: float
    postgres: float
    at_least: bool = False

    def of(self, database: str) -> float:
        return self.sqlite if database == "sqlite" else self.postgres

    def met(self, database: str, value: float) -> bool:
        return value >= self.of(database) if self.at_least else value <= self.of(database)


_BESIDE = {
    "": "all neighbours",
    "_listing": "a listing each second",
    "_export": "an export",
    "_forged": "forged callbacks",
    "_downloads": "24 downloads",
    "_posts": "200 posts",
}
_NEIGHBOURS = tuple(
    Aim(f"neighbour_{name}_times_p99{end}", f"times the p99 of {words} beside {noise}", 3, 3)
    for end, noise in _BESIDE.items()
    for name, words in (("callbacks", "genuine callbacks"), ("posts", "small posts"))
)
AIMS = (
    Aim("added_p50_times_floor", "times the floor's added time of a task, p50", 1.6, 2.5),
    Aim("cpu_times_floor", "times the floor's CPU of a task, one at a time", 2.2, 3),
    Aim("cpu_busy_times_floor", "times the floor's CPU of a task, all slots busy", 2.0, 2.5),
    Aim("slot_use", "of the slots' time used by tasks of 3 s", 0.995, 0.995, at_least=True),
    Aim("short_tasks_per_s", "tasks of 0.5 s a second with 24 slots", 45, 45, at_least=True),
    Aim("post_p50_ms", "ms p50 of a post with 24 posters", 25, 40),
    Aim("share_of_bare", "of bare uvicorn's rate", 0.20, 0.15, at_least=True),
    Aim("times_naive", "times the naive receiver's rate", 10, 10, at_least=True),
    Aim("cpu_times_hmac", "times the CPU of a route that only checks the HMAC", 2.5, 2.5),
    Aim("slow_flush_share", "of its rate with slow flushes", 0.4, 0.4, at_least=True),
    Aim("flood_times_p99", "times the p99 of genuine callbacks during a flood of forged ones", 2, 2),
    Aim("signature_flood_times_p99", "times that p99 during a flood of wrong signatures", 2, 2),
    *_NEIGHBOURS,
    Aim("p99_ms_at_200", "ms p99 at 200/s", 6, 6),
    Aim("p99_ms_at_1000", "ms p99 at 1,000/s", 10, 10),
    Aim("lone_p50_ms", "ms p50 of a lone callback", 1.5, 1.5),
    Aim("unstored", "acknowledged but not stored", 0, 0),
)


def text(results: Results) -> str:
    """Render the results as text."""
    measured = [name for name in DATABASES if results.get(name)]
    lines = [*_aims(results, measured), "", *_growth(results, measured), *_figures(results, measured), ""]
    lines += _machine(results["machine"])
    lines += [f"{name}: left out, {results['left_out'][name]}" for name in results.get("left_out", {})]
    return "\n".join(lines) + "\n"


def document(results: Results) -> str:
    """Render the results as JSON; figures that were not measured are null."""
    shown = {name: value for name, value in results.items() if name not in DATABASES}
    for name in DATABASES:
        figures = results.get(name)
        shown[name] = figures and {**dict.fromkeys(_PROMISED), **figures}
    return json.dumps(_plain(shown), indent=2) + "\n"


def number(value: float) -> str:
    """Format with the significant digits; NaN as `-`."""
    if math.isnan(value):
        return "-"
    if value == int(value) or abs(value) >= 100:  # noqa: PLR2004 - three digits are enough
        return f"{value:,.0f}"
    return f"{value:.2f}"


def _aims(results: Results, measured: list[str]) -> list[str]:
    lines = [_row("", measured)]
    for aim in AIMS:
        cells = [_judged(aim, name, results[name].get(aim.figure)) for name in measured]
        if any(cells):
            lines.append(_row(aim.words, cells))
    return lines


def _judged(aim: Aim, database: str, value: float | None) -> str:
    if value is None:
        return ""
    sign, word = ("≥" if aim.at_least else "≤"), ("" if aim.met(database, value) else " MISSED")
    return f"{number(value)} ({sign} {number(aim.of(database))}){word}"


def _growth(results: Results, measured: list[str]) -> list[str]:
    """Return a row per path with its ratios and milliseconds; the largest ratio on any database comes first."""
    grown = results.get("growth")
    if not grown:
        return []
    by_database = [grown[name] for name in measured]
    paths = {path for compared in by_database for path in compared}
    worst = {path: max(compared[path]["ratio"] for compared in by_database if path in compared) for path in paths}
    title = f"large/small: {grown['large_tasks']:,} / {grown['small_tasks']:,} tasks"
    lines = [_row(title, ["ratio, of p99, small ms"] * len(measured))]
    lines += [
        _row(path, [_compared(path, compared[path]) if path in compared else "" for compared in by_database])
        for path in sorted(paths, key=lambda path: worst[path], reverse=True)
    ]
    return [*lines, ""]


def _compared(path: str, figures: Mapping[str, float]) -> str:
    shown = ", ".join(number(figures[name]) for name in ("ratio", "p99_ratio", "small_ms"))
    is_missed = path.startswith(WHOLE_TASK) and figures["ratio"] > _MOST_GROWTH
    return f"{shown} MISSED" if is_missed else shown


def _figures(results: Results, measured: list[str]) -> list[str]:
    judged = {aim.figure for aim in AIMS}
    names = list(dict.fromkeys(name for database in measured for name in results[database]))
    return [
        _row(name, [number(results[database][name]) if name in results[database] else "" for database in measured])
        for name in names
        if name not in judged
    ]


def _machine(machine: Mapping[str, Any]) -> list[str]:
    busy = f"{machine['idle_share']:.0%} idle and {machine['stolen_share']:.1%} stolen over {machine['seconds']} s"
    lines = [
        "{processors} x {processor}, kernel {kernel}, {file_system}".format_map(machine),
        "Python {python}, SQLite {sqlite}".format_map(machine),
        f"load before {machine['load_before']}, {busy}",
    ]
    if machine["noisy"]:
        lines.append(
            "The machine was busy with other work: trust ratios more than times, and repeat the run on an idle machine."
        )
    return lines


def _row(label: str, cells: list[str]) -> str:
    return f"{label:62} " + " ".join(f"{cell:>24}" for cell in cells)


def _plain(value: Any) -> Any:
    """Replace NaN by null, which JSON lacks, and round to four decimal places."""
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    return value
