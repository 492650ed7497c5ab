"""A short selection of the crash matrix; `make crash-matrix` does all of it."""

from pathlib import Path

import pytest

from tests.proof.crash_injected import UNKNOWN, Run, crash_at, without_crash
from tests.proof.crash_matrix import DOCUMENT
from tests.proof.crash_points import AFTER_COMMIT, BEFORE_COMMIT, Point, shortened
from tests.proof.crash_scenarios import SCENARIOS

pytestmark = pytest.mark.proof

SENT, ANSWERED = "submit to the provider: before it is sent", "submit to the provider: after the answer"


async def crashed(template: Path, name: str, step: str, place: str, number: int = 1) -> Run:
    usual, points = await without_crash(template, SCENARIOS[name])
    assert Point(step, place, number) in points
    return await crash_at(template, name, Point(step, place, number), usual)


@pytest.mark.parametrize(
    ("step", "place", "number"),
    [
        ("submit", "INSERT INTO slots", 1),
        ("submit", "request: before the answer leaves", 1),
        ("dispatch", BEFORE_COMMIT, 1),
        ("dispatch", ANSWERED, 1),
        ("dispatch", BEFORE_COMMIT, 2),
        ("callback", "UPDATE tasks", 1),
        ("callback", AFTER_COMMIT, 1),
        ("collect", "download: after the answer", 1),
        ("collect", "file: after it is kept", 1),
        ("collect", "INSERT INTO results", 1),
        ("worker", "DELETE FROM jobs", 2),
    ],
)
async def test_a_crash_changes_neither_the_end_nor_the_bill(
    sqlite_template: Path, step: str, place: str, number: int
) -> None:
    run = await crashed(sqlite_template, "plain", step, place, number)
    assert (run.differs, run.by_design, run.charges) == (None, False, 1)


@pytest.mark.parametrize(("name", "place", "charges"), [("plain", SENT, 0), ("polled", ANSWERED, 1)])
async def test_a_submit_of_which_nobody_can_tell_is_not_sent_again(
    sqlite_template: Path, name: str, place: str, charges: int
) -> None:
    run = await crashed(sqlite_template, name, "dispatch", place)
    assert (run.outcome, run.charges, run.differs) == (UNKNOWN, charges, None)


@pytest.mark.parametrize("name", ["busy", "refused"])
async def test_every_scenario_of_a_fault_ends_by_itself_without_a_crash(sqlite_template: Path, name: str) -> None:
    end, _ = await without_crash(sqlite_template, SCENARIOS[name])
    assert (end.outcome, end.charges, end.wrong) == ("stored", 1, ())


async def test_every_step_has_points_to_crash_at(sqlite_template: Path) -> None:
    seen = set()
    for name in ("plain", "busy", "refused"):
        _, points = await without_crash(sqlite_template, SCENARIOS[name])
        seen |= {point.step for point in points}
    assert seen == {"submit", "dispatch", "callback", "reconcile", "collect", "admit", "sweep", "worker"}


def test_a_statement_is_named_by_what_it_does_to_which_table() -> None:
    assert shortened("SELECT jobs.id \nFROM jobs LEFT OUTER JOIN tasks ON true") == "SELECT jobs"
    assert shortened("INSERT INTO tasks (id) VALUES (?)") == "INSERT INTO tasks"
    assert shortened("UPDATE jobs SET state=? RETURNING id") == "UPDATE jobs"


def test_the_document_holds_a_matrix_without_a_difference() -> None:
    assert "0 otherwise. Tasks charged twice: 0." in DOCUMENT.read_text()
