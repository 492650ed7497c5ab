"""The chain of the audit: each record has a digest over itself and the digest of the record before. Pure."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from app.rules.json_value import JsonObject

_MAX_FAULTS = 100  # that are collected
START = "0" * 64  # stands for the digest before the first record


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An action: its actor, object, time and origin. Its content holds no secret and nothing of a request.

    `sequence`: 1 for the first record, without a gap. `key_id`, `application_id`, `address`: None if the service itself
    did it.
    """

    sequence: int
    at: datetime
    key_id: str | None
    application_id: str | None
    address: str | None
    action: str
    subject: str
    detail: JsonObject = field(hash=False)

    def digest(self, previous: str) -> str:
        """Return the SHA-256 in hex of the previous digest and this record as canonical JSON."""
        members = {
            "sequence": self.sequence,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "key_id": self.key_id,
            "application_id": self.application_id,
            "address": self.address,
            "action": self.action,
            "subject": self.subject,
            "detail": self.detail,
        }
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(f"{previous}\n{canonical}".encode()).hexdigest()


class Chained(Protocol):
    """A record with the digests that are stored with it."""

    @property
    def record(self) -> AuditRecord: ...
    @property
    def previous(self) -> str: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a check: the number of records, the digest of the newest, and what is wrong."""

    records: int
    head: str
    faults: tuple[str, ...]


def verify(newest_first: Iterable[Chained], head: str | None = None) -> Verified:
    """Check all records, newest first. `head`: a digest noted earlier, which must still be in the chain.

    A chain that was cut at its new end is intact in itself. Only a digest that was noted elsewhere shows the cut.
    """
    faults: list[str] = []
    count, newest_digest = 0, START
    later: Chained | None = None
    head_found = head in {None, START}
    for entry in newest_first:
        if later is None:
            newest_digest = entry.digest
        faults += _faults(entry, later) if len(faults) < _MAX_FAULTS else ()
        head_found = head_found or entry.digest == head
        count, later = count + 1, entry
    if later is not None and (later.record.sequence != 1 or later.previous != START):
        faults.append(f"the first record is {later.record.sequence}: the records before it are missing")
    if not head_found:
        faults.append("the given head is not in the chain: records at its end are missing, or all were replaced")
    return Verified(count, newest_digest, tuple(faults))


def _faults(entry: Chained, later: Chained | None) -> Iterator[str]:
    """Yield what is wrong with a record, and with its place before the later one."""
    number = entry.record.sequence
    if later is not None and number != later.record.sequence - 1:
        yield f"after {number} comes {later.record.sequence}: records are missing or out of order"
    elif later is not None and later.previous != entry.digest:
        yield f"{later.record.sequence} does not follow {number}: one of them was replaced"
    if entry.record.digest(entry.previous) != entry.digest:
        yield f"{number} was changed"
