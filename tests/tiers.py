"""Which tests run when: `make test` stays under 90 seconds, `make check` runs what it leaves out.

- `make test`: rules, database, jobs, steps and web; what is not in `db/` or `jobs/` on SQLite alone
- `make check`: the steps on PostgreSQL; browser, fuzzing, migrations, clouds, child processes, flaws, speed
- `make cold`: properties and processes again, with cold caches on one busy processor
- `make prove`: what kills processes or searches at random (`proof`), and a longer search for every property
"""

from collections.abc import Sequence
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
# Here both databases are the subject, so `make test` runs both.
_BOTH_DATABASES = frozenset({"db", "jobs"})
_SERVERS = frozenset({"postgres", "s3", "gs", "az"})
# Folders and files that are in `make check` as a whole, beside single tests that carry its mark.
_CHECKED = (
    "benchmarks",  # measures, and proves no promise of the service
    "cli",  # starts processes
    "flaws",  # the same stories again, each with a flaw put in that they must catch
    "store/test_going_away.py",  # stand-ins for clouds
    "twin/test_sockets.py",  # the same answers again, over real sockets
    "test_clients.py",  # clients of others
    "test_dashboards.py",
    "db/migrations/test_migrations.py",
    "db/migrations/test_migrations_live.py",
    "test_performance_promises.py",
    "test_restore.py",
    "web/test_behind_nginx.py",
    "web/test_browser.py",
    "web/test_callback_ways.py",  # over real sockets
    "web/test_openapi.py",  # fuzzing
    "web/test_protocol.py",
    "web/test_sockets.py",
)

# Files that start the service as a process: what is slow at first must not fail there either.
_PROCESSES = ("cli/test_demo.py", "cli/test_stopping.py", "cli/test_work.py", "proof/test_crash.py")


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
    """Whether it asks for the fixture of one, or a parametrized fixture has chosen that."""
    call = getattr(item, "callspec", None)
    chosen = [] if call is None else [value for value in call.params.values() if isinstance(value, str)]
    return not _SERVERS.isdisjoint([*getattr(item, "fixturenames", ()), *chosen])


def _is_in(path: Path, places: Sequence[str]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def is_left_out(path: Path, expression: str) -> bool:
    """Whether no test of this file or folder is asked for by `-m`: then it need not be read, nor what it imports."""
    place = path.relative_to(_TESTS)
    return ("not check" in expression and _is_in(place, _CHECKED)) or (
        "not proof" in expression and place.is_relative_to("proof")
    )
