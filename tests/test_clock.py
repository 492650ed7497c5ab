from datetime import UTC, datetime, timedelta

from app.clock import FollowingClock, utc_now
from tests.world import FrozenClock

SERVER = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


def test_the_clock_returns_aware_utc() -> None:
    assert utc_now().utcoffset() == timedelta()


def test_the_clock_does_not_run_backwards() -> None:
    assert utc_now() <= utc_now()


class Monotonic:
    """A monotonic clock that a test advances."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_a_clock_that_was_not_set_shows_the_time_of_the_machine() -> None:
    clock = FollowingClock(FrozenClock(SERVER))

    assert (clock(), clock.ahead, clock.is_set) == (SERVER, timedelta(), False)


def test_a_clock_that_was_set_ignores_the_machine_and_advances_with_the_monotonic_clock() -> None:
    machine, monotonic = FrozenClock(SERVER + HOUR), Monotonic()
    clock = FollowingClock(machine, monotonic)
    clock.set(SERVER, SERVER)
    machine.advance(-86400)
    monotonic.seconds += 90

    assert (clock(), clock.ahead) == (SERVER + 90 * SECOND, HOUR)


def test_a_clock_behind_has_a_negative_difference() -> None:
    clock = FollowingClock(FrozenClock(SERVER - HOUR))
    clock.set(SERVER, SERVER)

    assert clock.ahead == -HOUR


def test_a_measurement_moves_the_clock_only_if_it_contradicts_it() -> None:
    clock = FollowingClock(FrozenClock(SERVER), Monotonic())
    clock.set(SERVER - SECOND, SERVER + SECOND)
    within = clock(), clock.ahead
    clock.set(SERVER + SECOND, SERVER + 3 * SECOND)

    assert within == (SERVER, timedelta())
    assert (clock(), clock.ahead) == (SERVER + SECOND, -SECOND)
