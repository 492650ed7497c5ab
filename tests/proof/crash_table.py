"""Render the runs as Markdown tables: crash points, outcomes and charges."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from tests.proof.crash_injected import Run
from tests.proof.crash_scenarios import SCENARIOS

_STEPS = ("submit", "dispatch", "callback", "reconcile", "collect", "notify", "admit", "erase", "sweep")
_ORDER = (*_STEPS, "worker", "idle")


def tables(runs: Sequence[Run]) -> str:
    injected = [run for run in runs if run.kind == "injected"]
    kills = [run for run in runs if run.kind != "injected"]
    parts = (_scenarios(injected), _points(injected), _kills(kills), total(runs))
    return "\n\n".join(part for part in parts if part)


def summary(runs: Sequence[Run]) -> str:
    return f"{_scenarios(runs)}\n\n{total(runs)}"


def total(runs: Sequence[Run]) -> str:
    charged_twice = sum(run.charges > 1 for run in runs)
    by_design, differ = sum(run.by_design for run in runs), sum(run.differs is not None for run in runs)
    same = len(runs) - by_design - differ
    return (
        f"{len(runs)} crashes: {same} with the same result as without a crash, {by_design} with `unknown_outcome` by "
        f"design, {differ} with another result. Tasks charged twice: {charged_twice}."
    )


def _scenarios(runs: Iterable[Run]) -> str:
    rows = ["| scenario | result | crashes | same result | `unknown_outcome` by design | another result |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: |")
    by_name = _grouped(runs, lambda run: (list(SCENARIOS).index(run.scenario),))
    for group in by_name:
        scenario = SCENARIOS[group[0].scenario]
        by_design, differ = sum(run.by_design for run in group), sum(run.differs is not None for run in group)
        same = len(group) - by_design - differ
        rows.append(f"| {scenario.title} | {scenario.ends} | {len(group)} | {same} | {by_design} | {differ} |")
    return "\n".join(rows)


def _points(runs: Iterable[Run]) -> str:
    rows = ["| step | point of the crash | kind | crashes | outcome | charges per task |"]
    rows.append("| --- | --- | --- | ---: | --- | --- |")
    for group in _grouped(runs, lambda run: (_rank(run.step), run.step, run.place)):
        first = group[0]
        rows.append(f"| {first.step} | {_point_text(first.place)} | {first.kind} | {len(group)} | {_ends(group)} |")
    return "\n".join(rows)


def _rank(step: str) -> int:
    """Return the place of a step in the table; one without a place comes last."""
    return _ORDER.index(step) if step in _ORDER else len(_ORDER)


def _kills(runs: Sequence[Run]) -> str:
    rows = ["| step | time of the kill | kind | crashes | outcome | charges per task |"]
    rows.append("| --- | --- | --- | ---: | --- | --- |")
    rows += [f"| {run.step} | {run.place} | {run.kind} | 1 | {_ends([run])} |" for run in runs]
    return "\n".join(rows) if runs else ""


def _point_text(place: str) -> str:
    """Add "before" to a statement, which is stopped before it runs; the other places state the time themselves."""
    return f"before `{place}`" if place.isascii() and place.split(maxsplit=1)[0].isupper() else place


def _ends(group: Sequence[Run]) -> str:
    ends = Counter(
        "`unknown_outcome` by design" if run.by_design else "same result" for run in group if not run.differs
    )
    ends += Counter("DIFFERS" for run in group if run.differs)
    outcome = ", ".join(f"{end}: {count}" for end, count in ends.items()) if len(ends) > 1 else next(iter(ends))
    charges = ", ".join(str(number) for number in sorted({run.charges for run in group}))
    return f"{outcome} | {charges}"


def _grouped(runs: Iterable[Run], key: Callable[[Run], tuple[int | str, ...]]) -> list[list[Run]]:
    return [list(group) for _, group in groupby(sorted(runs, key=key), key=key)]
