import base64
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids

AT = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
INSTANTS = st.datetimes(
    min_value=datetime.fromisoformat("1970-01-01"),
    max_value=datetime.fromisoformat("4000-01-01"),
    timezones=st.just(UTC),
)


def test_an_id_names_its_kind_and_is_safe_in_an_address() -> None:
    assert re.fullmatch(r"task_[0-9a-v]{37}", ids.new_id("task", AT))


@given(INSTANTS, INSTANTS)
def test_ids_sort_by_creation(one: datetime, other: datetime) -> None:
    earlier, later = sorted([one, other])
    if earlier < later:
        assert ids.new_id("task", earlier) < ids.new_id("task", later)


def test_ids_of_one_instant_differ() -> None:
    assert len({ids.new_id("task", AT) for _ in range(1000)}) == 1000


def test_the_random_part_of_an_id_is_128_bits_long() -> None:
    same_time = [ids.new_id("sub", AT) for _ in range(2000)]
    positions = list(zip(*(each.removeprefix("sub_") for each in same_time), strict=True))

    # 56 bits of time fill eleven of the characters and one bit of the twelfth.
    assert [len(set(position)) for position in positions[:11]] == [1] * 11
    assert all(len(set(position)) > 1 for position in positions[11:])


def test_a_key_holds_256_bits_and_fits_in_a_header() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", ids.new_key())


def test_keys_differ() -> None:
    assert len({ids.new_key() for _ in range(1000)}) == 1000


def test_jitter_stays_within_its_span() -> None:
    span = timedelta(seconds=3)

    assert all(timedelta() <= ids.jitter(span) <= span for _ in range(1000))


def test_jitter_spreads() -> None:
    waits = [ids.jitter(timedelta(seconds=1)) for _ in range(1000)]

    assert max(waits) - min(waits) > timedelta(seconds=0.5)


def test_a_jittered_wait_is_at_most_a_quarter_longer() -> None:
    wait = timedelta(seconds=8)

    assert all(wait <= ids.jittered(wait) <= timedelta(seconds=10) for _ in range(1000))


def test_no_span_has_no_jitter() -> None:
    assert ids.jitter(timedelta()) == timedelta()


@given(INSTANTS, INSTANTS)
def test_exactly_the_ids_created_before_an_instant_sort_before_its_first_id(one: datetime, other: datetime) -> None:
    made = ids.new_id("ev", one)

    assert (made < ids.first_at("ev", other)) == (one < other)


def test_the_first_id_of_an_instant_has_the_form_of_an_id() -> None:
    assert ids.is_id("ev", ids.first_at("ev", AT))


def test_an_instant_outside_the_range_of_ids_is_before_or_after_all_ids() -> None:
    calendar = [datetime.min.replace(tzinfo=UTC), AT, datetime.max.replace(tzinfo=UTC)]
    first, _, last = [ids.first_at("ev", instant) for instant in calendar]

    assert first < ids.new_id("ev", datetime(1970, 1, 1, tzinfo=UTC))
    assert ids.new_id("ev", datetime(4000, 1, 1, tzinfo=UTC)) < last
    assert ids.is_id("ev", last)


@given(INSTANTS)
def test_an_id_has_the_form_of_an_id_at_any_time(at: datetime) -> None:
    made = ids.new_id("task", at)

    assert ids.is_id("task", made)
    assert not ids.is_id("sub", made)


@given(INSTANTS)
def test_the_time_of_an_id_is_its_microseconds_in_base32hex(at: datetime) -> None:
    """Ids are stored in old databases: the format must not change, so that new ids sort after them."""
    microseconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    whole = base64.b32hexencode((microseconds << 24).to_bytes(10)).decode().lower()

    assert ids.first_at("ev", at) == f"ev_{whole[:12]}{'0' * 25}"
    assert ids.new_id("ev", at)[3:14] == whole[:11]


@pytest.mark.parametrize("instant", [AT, AT.replace(microsecond=1), AT.replace(microsecond=999_999)])
def test_the_first_id_of_an_instant_is_its_lowest_and_above_all_earlier_ones(instant: datetime) -> None:
    first = ids.first_at("ev", instant)
    before = [ids.new_id("ev", instant - timedelta(microseconds=1)) for _ in range(200)]

    assert max(before) < first <= min(ids.new_id("ev", instant) for _ in range(200))


def test_the_pattern_of_a_prefix_matches_exactly_its_ids() -> None:
    known = re.compile(ids.pattern("task"))

    assert known.search(ids.new_id("task", AT))
    assert not known.search(ids.new_id("ep", AT))
    assert not known.search(ids.new_id("task", AT)[:-1])
    assert not known.search(ids.new_id("task", AT) + "0")
