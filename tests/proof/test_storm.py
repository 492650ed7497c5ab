"""Short storms, and tests that the judge finds each broken promise."""

import hashlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_or_fail
from tests.proof.fleet import Member
from tests.proof.network_faults import NAMES, Played, missing
from tests.proof.storm_judge import Figures, judge
from tests.proof.storm_run import Seen, Storm, go_through

pytestmark = pytest.mark.proof

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
PROMPT = "storm 1, picture 1"


async def test_a_small_storm_with_two_kills_breaks_no_promise(tmp_path: Path) -> None:
    # With this seed the twin loses an answer, drops callbacks and refuses links, and no time limit has to pass.
    storm = Storm(tasks=40, seed=39, lifetime_s=(2, 3), posts_per_s=9)
    seen = await go_through(storm, tmp_path)
    figures = judge(storm.seed, seen.asked, seen)

    assert figures.broken == [], figures.which
    assert (figures.tasks, figures.final) == (40, 40)
    assert figures.kills >= 2
    assert figures.faults.keys() >= {"drop_callback", "lose_answer_after", "forge_callback", "unsigned_callback"}


@pytest.mark.usefixtures("postgres")  # skips where no server can be started
async def test_three_workers_and_two_apis_on_postgres_killed_at_random_break_no_promise(tmp_path: Path) -> None:
    # The jobs of a killed worker wait half a minute for another one, so a few kills are enough.
    storm = Storm(60, seed=17, lifetime_s=(2, 3), most_kills=3, posts_per_s=12, database="postgres", workers=3)
    seen = await go_through(storm, tmp_path)
    figures = judge(storm.seed, seen.asked, seen)

    assert figures.broken == [], figures.which
    assert (figures.tasks, figures.final) == (60, 60)
    assert figures.kills >= 2


@pytest.mark.usefixtures("postgres")
async def test_faults_between_the_processes_and_postgres_break_no_promise(tmp_path: Path) -> None:
    if reason := missing():
        skip_or_fail("faketime", reason)
    storm = Storm(36, seed=3, database="postgres", workers=2, network=True, gap_s=(1, 1), statement_s=2, scale=0.1)
    seen = await go_through(storm, tmp_path)
    figures = judge(storm.seed, seen.asked, seen)

    assert figures.broken == [], figures.which
    assert (figures.tasks, figures.final) == (36, 36)
    assert {fault.name for fault in seen.network_faults} == set(NAMES)


@pytest.mark.parametrize(
    ("log", "missed"),
    [
        ("fluxhook: the database cannot be reached at the moment\n", True),
        ('{"event": "schema_migrated"}\nfluxhook: the database cannot be reached at the moment\n', True),
        ('{"event": "job"}\nfluxhook: the database cannot be reached at the moment\n', False),
        ('{"event": "schema_migrated"}\n', False),
        ("", False),
    ],
)
def test_a_start_without_a_database_is_told_from_a_service_that_ends(tmp_path: Path, log: str, missed: bool) -> None:
    file = tmp_path / "worker.log"
    file.write_text(log)

    assert Member(("work",), {}, file).missed_the_database is missed


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def ours(**changes: Any) -> dict[str, Any]:
    task = {"id": "task_1", "params": {"prompt": PROMPT}, "status": "stored", "failure": None}
    return {**task, "ready_at": at(2), "stored_at": at(3), "failed_at": None, **changes}


def unknown(**changes: Any) -> dict[str, Any]:
    failure = {"code": "unknown_outcome"}
    return ours(status="failed", failure=failure, ready_at=None, stored_at=None, failed_at=at(50), **changes)


def theirs(**changes: Any) -> dict[str, Any]:
    called = [{"kind": "true", "answered": 200}]
    entry: dict[str, Any] = {
        "prompt_digest": hashlib.sha256(PROMPT.encode()).hexdigest(),
        "status": "Ready",
        "sha256": "a",
    }
    entry |= {
        "account": "x",
        "accepted_at": at(0),
        "ready_at": at(1),
        "link_ends_at": at(600),
        "faults": [],
        "answer_lost": False,
    }
    return {**entry, "callbacks_withheld": False, "callbacks": called, **changes}


def lost(*, withheld: bool) -> dict[str, Any]:
    called = [] if withheld else [{"kind": "true", "answered": 200}]
    return theirs(answer_lost=True, callbacks_withheld=withheld, callbacks=called)


def judged(tasks: list[dict[str, Any]], taken: list[dict[str, Any]], in_flight: int = 24, **changes: Any) -> Figures:
    most = {"account": in_flight, "flux-kontext-max": 6}
    seen = Seen(tasks=tasks, ledger={"tasks": taken, "refused": [], "max_in_flight": most}, images={"task_1": "a"})
    for name, value in changes.items():
        setattr(seen, name, value)
    return judge(1, [PROMPT], seen)


BROKEN: dict[str, Figures] = {
    "every task is final": judged([ours(status="submitted", stored_at=None)], [theirs()]),
    "a post that is interrupted and repeated makes one task": judged([ours(), ours(id="task_2")], [theirs()]),
    "nothing is charged twice": judged([ours()], [theirs(), theirs()]),
    "no image is lost that the provider delivered in time": judged(
        [ours(status="failed", failure={"code": "asset_lost"}, stored_at=None, failed_at=at(700))], [theirs()]
    ),
    "stored images equal the provider's": judged([ours()], [theirs()], images={"task_1": "b"}),
    "a task ends as the provider reports": judged(
        [ours(status="failed", failure={"code": "provider_rejected"}, stored_at=None)], [theirs(status="Error")]
    ),
    "an outcome is unknown if no evidence could exist": judged([ours()], [lost(withheld=True)]),
    "never more than 24 in flight of one account": judged([ours()], [theirs()], in_flight=25),
    "the service ends only if it is killed": judged([ours()], [theirs()], ended_by_itself=1),
    "every open task has a job, and no step fails": judged(
        [ours()], [theirs()], complaints=Counter({"unscheduled": 1})
    ),
}


@pytest.mark.parametrize("promise", BROKEN)
def test_each_broken_promise_is_named(promise: str) -> None:
    assert BROKEN[promise].broken == [promise]


def test_a_correct_run_breaks_no_promise() -> None:
    figures = judged([ours()], [theirs()])

    assert (figures.broken, figures.too_slow) == ([], [])


def test_a_slow_repair_is_named_and_breaks_no_other_promise() -> None:
    figures = judged([ours(stored_at=at(62))], [theirs(faults=["drop_callback"])])

    assert figures.too_slow == ["99 of 100 repairs take at most 60 s"]
    assert figures.broken == []


def test_a_slow_recovery_from_a_fault_of_the_network_is_named() -> None:
    asked = {PROMPT: NOON}
    faults = [
        Played("slow network", NOON, NOON + timedelta(seconds=2)),
        Played("silence", NOON, NOON + timedelta(days=1)),
    ]
    slow = judged([ours(stored_at=at(93))], [theirs()], asked_at=asked, network_faults=faults)
    quick = judged([ours(stored_at=at(91))], [theirs()], asked_at=asked, network_faults=faults)

    assert slow.recovery_p99_s == {"slow network": 91, "silence": 0}
    assert slow.too_slow == ["99 of 100 tasks are final 90 s after a fault of the network ends"]
    assert (slow.broken, quick.too_slow) == ([], [])


def test_an_outcome_is_unknown_if_the_answer_is_lost_and_the_callback_withheld() -> None:
    figures = judged([unknown()], [lost(withheld=True)])

    assert figures.broken == []
    assert (figures.unknown_outcome, figures.unknown_and_withheld) == (1, 1)


def test_an_unknown_outcome_after_a_callback_breaks_a_promise() -> None:
    assert judged([unknown()], [lost(withheld=False)]).broken == [
        "no image is lost that the provider delivered in time",
        "an outcome is unknown only if no evidence could exist",
    ]


def test_an_unknown_outcome_after_a_refusal_breaks_a_promise() -> None:
    answered = {"task_1": [{"event": "evidence", "witness": "submit"}]}

    assert judged([unknown()], [], timelines=answered).broken == [
        "an outcome is unknown only if no evidence could exist"
    ]


def test_an_outcome_is_unknown_if_only_an_earlier_attempt_was_answered() -> None:
    attempts = [{"event": "submission", "submission_id": f"sub_{number}", "number": number} for number in (1, 2)]
    refused = {"event": "evidence", "witness": "submit", "submission_id": "sub_1"}

    assert judged([unknown()], [], timelines={"task_1": [*attempts, refused]}).broken == []


def test_an_image_whose_link_expired_before_it_was_known_is_not_counted_as_lost() -> None:
    gone = ours(status="failed", failure={"code": "asset_lost"}, stored_at=None, ready_at=at(20), failed_at=at(90))
    figures = judged([gone], [theirs(faults=["expired_link"], link_ends_at=at(16))])

    assert (figures.images_lost, figures.images_expired_before_known) == (0, 1)
