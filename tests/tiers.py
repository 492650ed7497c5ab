"""Which tests run when: `make test` takes less than 90 seconds, `make check` runs the tests that it omits.

- `make test`: rules, database, jobs, steps and web; only `db/` and `jobs/` also on PostgreSQL
- `make check`: the steps on PostgreSQL; images; browser, fuzzing, migrations, clouds, child processes, flaws, speed
- `make cold`: property and process tests again, with cold caches on one busy processor
- `make prove`: tests that kill processes or search at random (`proof`), and longer searches of all properties
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
# These test the databases themselves, so `make test` runs them on both.
_BOTH_DATABASES = frozenset({"db", "jobs"})
_SERVERS = frozenset({"postgres", "s3", "gs", "az"})
# Folders and files that run in `make check` as a whole, in addition to single tests with its mark.
_CHECKED = (
    "benchmarks",  # tests of the benchmarks, not of the service
    "cli",  # starts processes
    "flaws",  # checks that must fail on flawed code
    "images",  # decodes hundreds of files
    "store/test_going_away.py",  # stand-ins for clouds
    "twin/test_sockets.py",  # repeats other tests over real sockets
    "test_clients.py",  # clients of other vendors
    "test_dashboards.py",
    "test_outages.py",  # repeats a whole task for each of its calls
    "db/engine/test_pooler.py",
    "db/migrations/test_migrations.py",
    "db/migrations/test_migrations_live.py",
    "test_models.py",  # a story for each model
    "test_performance_promises.py",
    "test_phrase_check.py",
    "test_private_authority.py",
    "test_restore.py",
    "web/test_behind_nginx.py",
    "web/test_behind_pgbouncer.py",
    "web/test_browser.py",
    "web/test_callback_ways.py",  # over real sockets
    "web/test_connection.py",
    "web/test_openapi.py",  # fuzzing
    "web/test_protocol.py",
    "web/test_sockets.py",
    "web/test_unknown_fields.py",  # hundreds of names
    "web/test_uploads.py",
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
)


def assign(items: Sequence[pytest.Item]) -> None:
    """Mark the tests that `make test` leaves out with `check`, and those that start a process with `process`."""
    for item in items:
        if _is_in(item.path.relative_to(_TESTS), _PROCESSES):
            item.add_marker("process")
        if item.get_closest_marker("proof") is None and _is_checked(item):
            item.add_marker("check")


def _is_checked(item: pytest.Item) -> bool:
    path = item.path.relative_to(_TESTS)
    if _is_in(path, _CHECKED):
        return True
    return path.parts[0] not in _BOTH_DATABASES and _needs_a_server(item)


def _needs_a_server(item: pytest.Item) -> bool:
    """Whether the test uses the fixture of a server, directly or through a parameter."""
    call = getattr(item, "callspec", None)
    parameters = [] if call is None else [value for value in call.params.values() if isinstance(value, str)]
    return not _SERVERS.isdisjoint([*getattr(item, "fixturenames", ()), *parameters])


def _is_in(path: Path, places: Sequence[str]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def is_left_out(path: Path, expression: str) -> bool:
    """Whether `-m` excludes every test of this file or folder, so that it need not be imported."""
    place = path.relative_to(_TESTS)
    return ("not check" in expression and _is_in(place, _CHECKED)) or (
        "not proof" in expression and place.is_relative_to("proof")
    )
