"""The sampling of forged callbacks: limits per attempt and per second."""

from datetime import timedelta

from app.rules.sampling import SampleLimit
from tests.rows import START


def taken(samples: SampleLimit, name: str, tries: int, seconds: float = 0) -> int:
    """Return how many of `tries` forged callbacks of one attempt are stored."""
    return sum(samples.take(name, START + timedelta(seconds=seconds)) for _ in range(tries))


def all_taken(samples: SampleLimit, attempts: int, seconds: float = 0, kind: str = "sub") -> int:
    """Return how many are stored, for one forged callback of each of `attempts` attempts."""
    return sum(taken(samples, f"{kind}_{number}", 1, seconds) for number in range(attempts))


def test_ten_samples_are_stored_for_each_attempt() -> None:
    samples = SampleLimit()

    assert taken(samples, "sub_1", 25) == 10
    assert taken(samples, "sub_1", 25, seconds=3600) == 0


def test_each_attempt_has_a_limit_of_its_own() -> None:
    samples = SampleLimit()
    taken(samples, "sub_1", 1000)

    assert [taken(samples, f"sub_{number}", 25) for number in (2, 3)] == [10, 10]


def test_a_burst_of_a_hundred_samples_of_all_attempts_is_stored() -> None:
    assert all_taken(SampleLimit(), 500) == 100


def test_ten_samples_a_second_are_stored_after_the_burst() -> None:
    samples = SampleLimit()
    all_taken(samples, 500)

    assert all_taken(samples, 500, seconds=0.05, kind="early") == 0
    assert all_taken(samples, 500, seconds=0.1, kind="next") == 1
    assert all_taken(samples, 500, seconds=2.1, kind="later") == 20


def test_the_burst_limit_does_not_grow_with_time() -> None:
    samples = SampleLimit()
    all_taken(samples, 500)

    assert all_taken(samples, 500, seconds=86_400, kind="later") == 100


def test_a_dropped_sample_does_not_count_for_its_attempt() -> None:
    samples = SampleLimit()
    all_taken(samples, 100)
    taken(samples, "sub_late", 50)

    assert taken(samples, "sub_late", 50, seconds=60) == 10


def test_the_counts_of_at_most_4096_attempts_are_stored() -> None:
    samples = SampleLimit()
    for number in range(4097):  # ten a second, so that each is stored
        assert taken(samples, f"sub_{number}", 10, seconds=number) == 10

    assert taken(samples, "sub_1", 10, seconds=10_000) == 0
    assert taken(samples, "sub_4096", 10, seconds=10_000) == 0
    assert taken(samples, "sub_0", 10, seconds=10_000) == 10


def test_the_least_recently_used_attempt_is_evicted() -> None:
    samples = SampleLimit()
    taken(samples, "sub_lasting", 9)
    for number in range(4095):
        taken(samples, f"sub_{number}", 1, seconds=number)
    taken(samples, "sub_lasting", 1, seconds=4095)
    taken(samples, "sub_new", 1, seconds=4096)

    assert taken(samples, "sub_lasting", 10, seconds=4097) == 0


def test_a_clock_that_goes_backwards_changes_no_limit() -> None:
    samples = SampleLimit()
    all_taken(samples, 60, seconds=3600)

    assert all_taken(samples, 500, seconds=0, kind="back") == 40
    assert all_taken(samples, 500, seconds=-3600, kind="further") == 0
    assert all_taken(samples, 500, seconds=-3599, kind="on") == 10
