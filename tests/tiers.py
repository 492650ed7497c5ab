"""Which tests run when: `make test` takes less than 90 seconds, `make check` runs the tests that it omits.

- `make test`: rules, database, jobs, steps and the main routes; only `db/` and `jobs/` also on PostgreSQL
- `make check`: the steps on PostgreSQL; pages, images, browser, fuzzing, migrations, clouds, processes, flaws, speed
- `make cold`: property and process tests again, with cold caches on one busy processor
- `make prove`: tests that kill processes or search at random (`proof`), and longer searches of all properties
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

TESTS = Path(__file__).parent
# These test the databases themselves, so `make test` runs them on both.
_BOTH_DATABASES = ("db", "jobs")
_SERVERS = frozenset({"postgres", "s3", "gs", "az"})
# Folders and files that run in `make check` as a whole, in addition to single tests with its mark.
_CHECKED = (
    "benchmarks",  # tests of the benchmarks, not of the service
    "cli",  # starts processes
    "flaws",  # checks that must fail on flawed code
    "images",  # decodes hundreds of files
    "store/test_going_away.py",  # stand-ins for clouds
    "twin/test_sockets.py",  # repeats other tests over real sockets
    "test_canaries.py",
    "test_callback_order.py",  # every order
    "test_clients.py",  # clients of other vendors
    "test_collect_deadlines.py",  # hours of a moved clock
    "test_collect_outage.py",
    "test_dashboards.py",
    "test_outages.py",  # repeats a whole task for each of its calls
    "db/engine/test_batches.py",  # waits for bounds
    "db/engine/test_bulk.py",  # compares hundreds of statements on both databases
    "db/engine/test_pooler.py",
    "db/engine/test_silence.py",  # waits for connections that do not answer
    "db/queries/test_task_list.py",  # fills the database
    "jobs/test_postgres.py",
    "db/migrations/test_migrations.py",
    "db/migrations/test_migrations_live.py",
    "test_documented_requests.py",  # over real sockets
    "test_generated_clients.py",  # installs generators
    "test_models.py",  # a story for each model
    "test_openai_clients.py",
    "test_performance_promises.py",
    "test_phrase_check.py",
    "test_private_authority.py",
    "test_restore.py",
    "test_twin_recipes.py",  # starts processes
    "test_security_rules.py",
    "transitions/test_slots.py",  # many tasks at once
    "web/pages",
    "web/routes/test_applications.py",
    "web/routes/test_erasures.py",  # crashes at many points
    "web/routes/test_events.py",  # waits for streams
    "web/routes/test_image.py",
    "web/routes/test_task_actions.py",
    "web/routes/test_usage.py",
    "web/test_access_matrix.py",  # every route with every caller
    "web/test_audit_matrix.py",
    "web/test_behind_nginx.py",
    "web/test_behind_pgbouncer.py",
    "web/test_browser.py",
    "web/test_callback_ways.py",  # over real sockets
    "web/test_connection.py",
    "web/test_cutting_proxies.py",  # with a client of another vendor
    "web/test_joining.py",  # over real sockets
    "web/test_openapi.py",  # fuzzing
    "web/test_protocol.py",
    "web/test_sockets.py",
    "web/test_task_form.py",  # a hundred malformed bodies
    "web/test_unknown_fields.py",  # hundreds of names
    "web/test_uploads.py",
    "worker/test_sweep.py",  # days of a moved clock
)

# Files that start the service as a process: `make cold` runs them, because a slow first start must not fail them.
_PROCESSES = (
    "cli/test_demo.py",
    "cli/test_held_uploads.py",
    "cli/test_hostile_clients.py",
    "cli/test_silent_database.py",
    "cli/test_stopping.py",
    "cli/test_work.py",
    "proof/test_crash.py",
    "test_canaries.py",
)


def assign(items: Sequence[pytest.Item]) -> None:
    """Mark the tests that `make test` leaves out with `check`, and those that start a process with `process`."""
    for item in items:
        if _is_in(item.path, _PROCESSES):
            item.add_marker("process")
        if item.get_closest_marker("proof") is None and _is_checked(item):
            item.add_marker("check")


def _is_checked(item: pytest.Item) -> bool:
    if _is_in(item.path, _CHECKED):
        return True
    return not _is_in(item.path, _BOTH_DATABASES) and _needs_a_server(item)


def _needs_a_server(item: pytest.Item) -> bool:
    """Whether the test uses the fixture of a server, directly or through a parameter."""
    call = getattr(item, "callspec", None)
    parameters = [] if call is None else [value for value in call.params.values() if isinstance(value, str)]
    return not _SERVERS.isdisjoint([*getattr(item, "fixturenames", ()), *parameters])


@cache  # thousands of tests are in a few hundred files
def _is_in(path: Path, places: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(TESTS / place) for place in places)


def one_case_of_each(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Return one item of each test function, the same in every run."""
    in_order = sorted(items, key=lambda item: item.nodeid, reverse=True)
    return set({item.nodeid.partition("[")[0]: item for item in in_order}.values())


def is_left_out(path: Path, expression: str) -> bool:
    """Whether `-m` excludes every test of this file, so that it need not be imported."""
    if not (expression and path.name.startswith("test_") and path.suffix == ".py"):
        return False
    condition, unknown = Expression.compile(expression), False

    def selects(marks: dict[str, bool]) -> bool:
        def has(name: str, /, **_: str | int | bool | None) -> bool:
            nonlocal unknown
            unknown |= name not in marks
            return marks.get(name, False)

        return condition.evaluate(has)

    return not any(map(selects, _possible_marks(path))) and not unknown


def _possible_marks(path: Path) -> Iterator[dict[str, bool]]:
    """Yield the combinations of marks that the tests of a file can have, by its place and its text."""
    text = path.read_text(encoding="utf-8")
    proofs = (
        [True] if "\npytestmark = pytest.mark.proof\n" in text else [False, True] if "mark.proof" in text else [False]
    )
    hypotheses = [False, True] if "hypothesis" in text else [False]
    for proof, hypothesis, check in product(proofs, hypotheses, [False, True]):
        yield {
            "proof": proof,
            "hypothesis": hypothesis,
            "check": not proof and (check or _is_in(path, _CHECKED)),
            "process": _is_in(path, _PROCESSES),
        }
