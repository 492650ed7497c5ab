"""The chain of the audit: any record that is changed, removed, added or moved is found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from app.rules.audit_chain import START, AuditRecord, verify

AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    record: AuditRecord
    previous: str
    digest: str


def chain(length: int = 5, action: str = "key.created") -> list[Entry]:
    """Return records, newest first."""
    entries: list[Entry] = []
    previous = START
    for number in range(1, length + 1):
        at = AT + timedelta(microseconds=number)
        record = AuditRecord(number, at, "key_1", "app_1", "192.0.2.7", action, f"key_{number}", {"scopes": "*"})
        digest = record.digest(previous)
        entries.append(Entry(record, previous, digest))
        previous = digest
    return entries[::-1]


def changed(entries: Sequence[Entry]) -> list[Entry]:
    middle = entries[2]
    return [*entries[:2], replace(middle, record=replace(middle.record, key_id="key_2")), *entries[3:]]


def changed_with_its_digest(entries: Sequence[Entry]) -> list[Entry]:
    record = replace(entries[2].record, subject="key_9")
    return [*entries[:2], Entry(record, entries[2].previous, record.digest(entries[2].previous)), *entries[3:]]


@pytest.mark.parametrize(
    ("tamper", "fault"),
    [
        (changed, "3 was changed"),
        (changed_with_its_digest, "4 does not follow 3: one of them was replaced"),
        (lambda entries: [*entries[:2], *entries[3:]], "after 2 comes 4: records are missing or out of order"),
        (lambda entries: [*entries[:4]], "the first record is 2: the records before it are missing"),
        (
            lambda entries: [entries[0], entries[2], entries[1], *entries[3:]],
            "after 3 comes 5: records are missing or out of order",
        ),
    ],
)
def test_a_chain_that_was_tampered_with_shows_it(tamper: Callable[[list[Entry]], list[Entry]], fault: str) -> None:
    assert fault in verify(tamper(chain())).faults


def test_an_intact_chain_names_its_head() -> None:
    found = verify(chain())

    assert (found.records, found.head, found.faults) == (5, chain()[0].digest, ())
    assert verify([]).head == START


def test_records_missing_at_the_end_show_with_a_head_that_was_noted_before() -> None:
    head = chain()[0].digest

    assert verify(chain(7), head).faults == ()
    assert verify(chain()[1:]).faults == ()
    assert verify(chain()[1:], head).faults != ()
    assert verify(chain(7, "key.changed"), head).faults != ()
