from datetime import timedelta

from app.clock import utc_now


def test_the_clock_returns_aware_utc() -> None:
    assert utc_now().utcoffset() == timedelta()


def test_the_clock_does_not_run_backwards() -> None:
    assert utc_now() <= utc_now()
