"""A short selection of the crash matrix; `make crash-matrix` runs all of it."""

from functools import partial
from pathlib import Path

import pytest

from app import callback, jobs
from app.db.tables import tasks
from app.transitions import moves
from app.transitions.erase import erase
from tests.postgres import Postgres
from tests.proof.crash_databases import Databases, Files, OnServer
from tests.proof.crash_injected import UNKNOWN, Run, crash_at, without_crash
from tests.proof.crash_matrix import DOCUMENT
from tests.proof.crash_points import AFTER_COMMIT, BEFORE_COMMIT, Point, sample, shortened, step_of
from tests.proof.crash_scenarios import SCENARIOS

pytestmark = pytest.mark.proof

SENT, ANSWERED = "submit to the provider: before it is sent", "submit to the provider: after the response"


@pytest.fixture
def on_sqlite(sqlite_template: Path) -> Files:
    return Files(sqlite_template)


@pytest.fixture
def on_postgres(postgres: Postgres, postgres_template: str) -> OnServer:
    return OnServer(postgres.dsn, postgres_template)


async def crashed(databases: Databases, name: str, step: str, place: str, number: int = 1) -> Run:
    usual, points = await without_crash(databases, SCENARIOS[name])
    assert Point(step, place, number) in points
    return await crash_at(databases, name, Point(step, place, number), usual)


@pytest.mark.parametrize(
    ("step", "place", "number"),
    [
        ("submit", "INSERT INTO slots", 1),
        ("submit", "request: before the response is sent", 1),
        ("dispatch", BEFORE_COMMIT, 1),
        ("dispatch", ANSWERED, 1),
        ("dispatch", BEFORE_COMMIT, 2),
        ("callback", "UPDATE tasks", 1),
        ("callback", AFTER_COMMIT, 1),
        ("collect", "download: after the response", 1),
        ("collect", "file: after it is stored", 1),
        ("collect", "INSERT INTO results", 1),
        ("worker", "DELETE FROM jobs", 2),
    ],
)
async def test_a_crash_changes_neither_the_outcome_nor_the_charges(
    on_sqlite: Files, step: str, place: str, number: int
) -> None:
    run = await crashed(on_sqlite, "plain", step, place, number)
    assert (run.differs, run.by_design, run.charges) == (None, False, 1)


@pytest.mark.parametrize(("name", "place", "charges"), [("plain", SENT, 0), ("polled", ANSWERED, 1)])
async def test_a_submission_with_unknown_outcome_is_not_sent_again(
    on_sqlite: Files, name: str, place: str, charges: int
) -> None:
    run = await crashed(on_sqlite, name, "dispatch", place)
    assert (run.outcome, run.charges, run.differs) == (UNKNOWN, charges, None)


@pytest.mark.parametrize(
    ("place", "number", "outcome"),
    [(BEFORE_COMMIT, 1, "stored"), (BEFORE_COMMIT, 2, UNKNOWN), (AFTER_COMMIT, 1, "stored")],
    ids=["before the record", "before the withdrawal", "after the withdrawal"],
)
async def test_a_crash_around_an_unconfirmed_record_never_costs_twice(
    on_sqlite: Files, place: str, number: int, outcome: str
) -> None:
    """A process that dies before it withdraws the attempt leaves it to the evidence, of which there is none."""
    run = await crashed(on_sqlite, "unconfirmed", "dispatch", place, number)
    assert (run.outcome, run.charges, run.differs) == (outcome, int(outcome == "stored"), None)


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("INSERT INTO unrecorded_images", 1),
        ("file: before it is stored", 1),
        ("file: after it is stored", 1),
        ("DELETE FROM unrecorded_images", 1),
    ],
)
async def test_a_crash_leaves_no_input_image_without_a_task(on_sqlite: Files, place: str, number: int) -> None:
    run = await crashed(on_sqlite, "edit", "submit", place, number)
    assert (run.differs, run.charges) == (None, 1)


@pytest.mark.parametrize("name", ["kept no longer", "erased"])
async def test_a_crash_while_data_is_deleted_leaves_nothing_and_loses_no_cost(on_sqlite: Files, name: str) -> None:
    usual, points = await without_crash(on_sqlite, SCENARIOS[name])
    deleting = [point for point in points if point.step in {"retention", "removals", "erase"}]
    runs = [await crash_at(on_sqlite, name, point, usual) for point in sample(deleting, 20)]

    assert [run for run in runs if run.differs] == []
    assert {point.place for point in deleting} >= {"file: before it is deleted", BEFORE_COMMIT, AFTER_COMMIT}


@pytest.mark.parametrize(
    ("name", "crashes"),
    [
        *[("plain", 12), ("edit", 6), ("polled", 4), ("hinted", 4), ("unconfirmed", 4)],
        *[("kept no longer", 6), ("erased", 4)],
    ],
)
async def test_on_postgres_another_worker_finishes_the_jobs_of_a_dead_one_with_the_same_result(
    on_postgres: OnServer, name: str, crashes: int
) -> None:
    usual, points = await without_crash(on_postgres, SCENARIOS[name])
    runs = [await crash_at(on_postgres, name, point, usual) for point in sample(points, crashes)]

    assert [run for run in runs if run.differs] == []
    assert any(run.outcome == usual.outcome for run in runs)


def test_a_sample_is_reproducible_and_none_chooses_all_points() -> None:
    points = [Point("submit", "a statement", number) for number in range(100)]

    assert sample(points, 7) == sample(points, 7)
    assert len(set(sample(points, 7))) == 7
    assert sample(points, None) == points


@pytest.mark.parametrize("name", ["busy", "refused", "unconfirmed"])
async def test_a_scenario_with_a_fault_ends_as_stored_without_a_crash(on_sqlite: Files, name: str) -> None:
    end, _ = await without_crash(on_sqlite, SCENARIOS[name])
    assert (end.outcome, end.charges, end.wrong) == ("stored", 1, ())


async def test_every_step_has_points_to_crash_at(on_sqlite: Files) -> None:
    seen = set()
    for name in ("plain", "busy", "refused"):
        _, points = await without_crash(on_sqlite, SCENARIOS[name])
        seen |= {point.step for point in points}
    assert seen == {"submit", "dispatch", "callback", "reconcile", "collect", "admit", "sweep", "retention", "worker"}


def test_a_unit_belongs_to_the_step_that_defines_it_and_a_shared_one_to_the_step_that_runs_it() -> None:
    assert step_of(callback.store_batch, "asyncio.events") == "callback"
    assert step_of(partial(callback.store_batch), "asyncio.events") == "callback"
    assert step_of(tasks.get, "app.dispatch") == "dispatch"
    assert step_of(jobs.next_due, "app.worker.loop") == "worker"
    assert step_of(moves.expire, "app.dispatch") == "dispatch"
    assert step_of(erase, "app.web.routes.task_actions") == "submit"
    assert step_of(erase, __name__) == "erase"


def test_a_statement_is_named_by_its_command_and_table() -> None:
    assert shortened("SELECT jobs.id \nFROM jobs LEFT OUTER JOIN tasks ON true") == "SELECT jobs"
    assert shortened("INSERT INTO tasks (id) VALUES (?)") == "INSERT INTO tasks"
    assert shortened("UPDATE jobs SET state=? RETURNING id") == "UPDATE jobs"
    assert shortened("DELETE FROM slots WHERE task_id = ?") == "DELETE FROM slots"
    assert shortened("SELECT id FROM unnest($1::text[]) JOIN (SELECT FROM queue) ON true FOR UPDATE") == "SELECT queue"
    assert shortened("WITH due AS (SELECT FROM queue FOR UPDATE SKIP LOCKED) UPDATE queue SET x=1") == "UPDATE queue"
    assert shortened("SELECT pg_notify($1, '')") == "SELECT pg_notify"


def test_the_document_has_matrices_without_a_difference() -> None:
    assert DOCUMENT.read_text().count("0 with another result. Tasks charged twice: 0.") == 2  # once for each engine
