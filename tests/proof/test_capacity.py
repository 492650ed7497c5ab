"""Short forms of `make capacity`."""

from pathlib import Path

import pytest

from tests.proof.capacity import SLOTS, Filled, fill, growth_mb, in_flight_by_account

pytestmark = pytest.mark.proof


@pytest.mark.usefixtures("postgres")  # skips where no server can be started
async def test_two_replicas_fill_the_providers_slots_and_never_exceed_them(tmp_path: Path) -> None:
    """The speed is measured by `make capacity` only: here the machine may be busy with other tests."""
    filled = await fill(tmp_path, tasks=96, ready_after_s=4)

    assert filled.max_in_flight == SLOTS


@pytest.mark.usefixtures("postgres")
async def test_three_accounts_have_72_tasks_in_flight_and_none_has_more_than_24(tmp_path: Path) -> None:
    in_flight = await in_flight_by_account(tmp_path, accounts=3, tasks=90)

    assert sorted(in_flight.values()) == [SLOTS, SLOTS, SLOTS]


async def test_waiting_tasks_take_almost_no_memory(tmp_path: Path) -> None:
    assert await growth_mb(tmp_path, "sqlite", tasks=1000) < 10


@pytest.mark.parametrize(
    ("filled", "broken"),
    [
        (Filled(tasks=240, ready_after_s=3, max_in_flight=24, seconds=33), []),
        (Filled(tasks=240, ready_after_s=3, max_in_flight=25, seconds=33), ["never more than 24 in flight"]),
        (Filled(tasks=240, ready_after_s=3, max_in_flight=24, seconds=34), ["at least 90% of what 24 slots allow"]),
    ],
)
def test_each_broken_promise_of_the_slots_is_named(filled: Filled, broken: list[str]) -> None:
    assert filled.broken == broken
