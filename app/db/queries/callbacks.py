"""The callbacks among the evidence, as somebody looks through them. Ids sort by when they were kept."""

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, select

from app.db.tables.attempts import submissions
from app.db.tables.evidence import IS_CALLBACK, IS_NOT_SIGNED, SAID, EvidenceRow, evidence, evidence_row
from app.security.verify import Verdict

LOOKED = 10_000  # rows that are looked through for one page, at most


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which callbacks are looked for; None means any."""

    task_id: str | None = None
    verdict: Verdict | None = None


class Page(NamedTuple):
    found: list[EvidenceRow]
    goes_on: str | None  # what the next page is to come before; None when this was the last


def newest(
    connection: Connection, wanted: Wanted, *, limit: int, before: str | None = None, most: int = LOOKED
) -> Page:
    """Callbacks, newest first, those kept before the one of the id `before` alone.

    Where no index has what is wanted in order, the newest `most` rows are looked through: the page may be short, and
    goes on all the same. Of an installation that only polls, the whole table would be read for nothing otherwise.
    """
    query, floor = select(*SAID).order_by(evidence.c.id.desc()).limit(limit + 1), None
    if wanted.task_id is not None:
        of_task = submissions.c.task_id == wanted.task_id
        query = query.join(submissions, submissions.c.id == evidence.c.submission_id).where(of_task, IS_CALLBACK)
    elif wanted.verdict not in {None, Verdict.SIGNED}:
        query = query.where(IS_NOT_SIGNED)
    else:
        floor = _floor(connection, before, most)
        query = query.where(IS_CALLBACK, evidence.c.id >= (floor or ""))
    if wanted.verdict is not None:
        query = query.where(evidence.c.verdict == wanted.verdict)
    if before is not None:
        query = query.where(evidence.c.id < before)
    found = [evidence_row(row) for row in connection.execute(query)]
    return Page(found[:limit], found[limit - 1].id if len(found) > limit else floor)


def _floor(connection: Connection, before: str | None, most: int) -> str | None:
    """The id that so many rows before this one come down to; None when there are fewer. Read from the index alone."""
    query = select(evidence.c.id).order_by(evidence.c.id.desc()).offset(most - 1).limit(1)
    if before is not None:
        query = query.where(evidence.c.id < before)
    found: str | None = connection.execute(query).scalar_one_or_none()
    return found
