"""When a disk is full, with and without retention."""

from datetime import timedelta

import pytest

from app.rules.growth import Stored, full_in

TEN_DAYS = timedelta(days=10)


@pytest.mark.parametrize(
    ("stored", "days"),
    [
        ([Stored(0, 10)], 10),
        ([Stored(500, 10), Stored(500, 10)], 5),
        ([Stored(0, 0)], None),
        ([], None),
        ([Stored(0, 5, kept=TEN_DAYS)], None),  # 50 at most
        ([Stored(50, 1000, kept=timedelta(0))], None),
        ([Stored(0, 5, kept=TEN_DAYS), Stored(0, 5)], 10),
        ([Stored(0, 4, kept=TEN_DAYS), Stored(0, 4)], 15),  # 80 in ten days, then 4 a day
        ([Stored(100, 20, kept=TEN_DAYS)], 5),  # it will be 200
    ],
)
def test_a_hundred_bytes_are_used_up_after(stored: list[Stored], days: int | None) -> None:
    assert full_in(100, stored) == (None if days is None else timedelta(days=days))
