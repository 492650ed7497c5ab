"""The dashboard and the alert rules ask for what a service shows: every metric, label and value in them exists."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from app.db.tables import provider_accounts
from app.jobs import Step
from app.rules.task import Failure, Said, Status
from app.security.verify import Verdict
from app.twin import Faults
from tests.calling import submitted
from tests.world import World

DOCS = Path(__file__).parent.parent / "docs"
WORDS = frozenset(("sum", "max", "count", "by", "on", "and", "abs", "rate", "increase", "deriv", "histogram_quantile"))
FROM_THE_SCRAPE = frozenset({"job", "instance"})  # what Prometheus itself adds to every series
# What a label may say beyond what a service that has done one task shows.
VALUES = {
    "status": {*Status, "200", "401", "404", "413", "503"},
    "failure": set(Failure),
    "said": set(Said),
    "verdict": {*Verdict, "unchecked"},
    "step": set(Step),
    "outcome": {"done", "failed"},
    "request": {"submit", "poll"},
    "job": {"fluxhook"},
    "reason": set(provider_accounts.REASONS),
}
Shown = Mapping[str, Mapping[str, set[str]]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def targets() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of everything that is drawn."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]


def expressions() -> list[str]:
    return [expr for _, expr, _ in targets()] + [rule["expr"] for rule in rules()]


async def shown_by(world: World) -> Shown:
    """Every series that a service shows once it has done a task: names, their labels, the labels' values.

    Without deprecated ones: the dashboard and the rules use their successors.
    """
    await submitted(world, faults=Faults())
    await world.go_on(5)
    series: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families((await world.api.get("/metrics")).text):
        for sample in () if family.documentation.startswith("Deprecated") else family.samples:
            labels = series.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return series


def unknown(expr: str, shown: Shown) -> list[str]:
    """What in an expression no series has."""
    wrong = []
    for name, selector in re.findall(r"(\w+)\{(.*?)\}", expr):
        labels = shown.get(name, {})
        for label, operator, value in re.findall(r'(\w+)(=~|=)"(.*?)"', selector):
            wrong += [f"{name}{{{label}}}"] * (label not in {*labels, *FROM_THE_SCRAPE})
            known = VALUES.get(label, set()) | labels.get(label, set())
            given = value.split("|") if operator == "=~" else [value]
            wrong += [f"{label}={each}" for each in given if not each.startswith("$") and each not in known]
    names = _metrics_in(expr)
    wrong += [name for name in names if name not in {*shown, "up"}]
    kept = {label for name in names for label in shown.get(name, {})} | FROM_THE_SCRAPE
    grouped = ",".join(re.findall(r"\b(?:by|on) \((.*?)\)", expr))
    return wrong + [label for label in re.findall(r"\w+", grouped) if label not in kept]


def _metrics_in(expr: str) -> list[str]:
    """The identifiers that are neither labels nor words of the language."""
    bare = re.sub(r"\{.*?\}|\[.*?\]|\b(?:by|on) \(.*?\)", " ", expr)
    return [name for name in re.findall(r"\b[a-z_][a-z0-9_]*\b", bare) if name not in WORDS]


async def test_every_metric_label_and_value_in_an_expression_exists(world: World) -> None:
    shown = await shown_by(world)

    assert {expr: wrong for expr in expressions() if (wrong := unknown(expr, shown))} == {}


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ("sum(rate(fluxhook_assets_lots_total[5m]))", ["fluxhook_assets_lots_total"]),
        ('fluxhook_no_such{step="sweep"}', ["fluxhook_no_such{step}", "fluxhook_no_such"]),
        ("max by (colour) (fluxhook_tasks)", ["colour"]),
        ('fluxhook_tasks{state="queued"}', ["fluxhook_tasks{state}", "state=queued"]),
        ('fluxhook_tasks{status="waiting"}', ["status=waiting"]),
        ('fluxhook_deadline_margin_seconds_bucket{le="121.0"}', ["le=121.0"]),
        ("fluxhook_deadline_margin_seconds", ["fluxhook_deadline_margin_seconds"]),
    ],
)
async def test_an_unknown_metric_label_or_value_is_found(world: World, expr: str, wrong: Collection[str]) -> None:
    assert unknown(expr, await shown_by(world)) == wrong


async def test_every_metric_of_fluxhook_is_on_the_dashboard(world: World) -> None:
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for _, expr, _ in targets() for name in _metrics_in(expr)}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in await shown_by(world) if name.startswith("fluxhook_")}

    assert ours - asked == set()


def test_a_legend_names_labels_that_its_expression_keeps() -> None:
    for title, expr, legend in targets():
        kept = {*re.findall(r"\w+", ",".join(re.findall(r"by \((.*?)\)", expr))), *FROM_THE_SCRAPE}
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= kept, title


def test_a_rule_has_a_severity_a_summary_and_a_description() -> None:
    names = [rule["alert"] for rule in rules()]

    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
        told = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        kept = {*re.findall(r"\w+", ",".join(re.findall(r"by \((.*?)\)", rule["expr"]))), *FROM_THE_SCRAPE}
        assert set(told) <= kept, rule["alert"]


def test_panels_do_not_overlap_and_have_unique_ids() -> None:
    panels = dashboard()["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert max(x for x, _ in cells) < 24


async def metrics_table(world: World) -> str:
    """The table of the metrics of this service in `docs/observing.md`."""
    shown = await shown_by(world)
    rows = ["| metric | labels | description |", "| --- | --- | --- |"]
    for family in text_string_to_metric_families((await world.api.get("/metrics")).text):
        if family.name.startswith("fluxhook_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = sorted(shown.get(f"{name}_count" if family.type == "histogram" else name, ()))
            rows.append(f"| `{name}` | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |")
    return "\n".join(rows)


async def test_the_document_lists_every_metric_with_its_labels_and_description(
    world: World, request: pytest.FixtureRequest
) -> None:
    path, table = DOCS / "observing.md", await metrics_table(world)
    text = path.read_text()
    found = re.search(r"(<!-- metrics: generated.*? -->\n)(.*?)(<!-- metrics: end -->)", text, re.DOTALL)
    assert found is not None
    if request.config.getoption("--regenerate"):
        path.write_text(text.replace(found[0], f"{found[1]}{table}\n{found[3]}"))
    else:
        assert found[2] == f"{table}\n"
