"""Lists of callbacks: their order, their filters, and the number of rows that one page examines."""

from datetime import timedelta
from typing import Any

from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import callbacks
from app.db.queries.callbacks import CallbackFilter
from app.db.tables import evidence
from app.rules.task import Witness
from app.security.verify import Verdict
from tests.db.tables.test_evidence import row
from tests.rows import START, plan_attempt, plan_task, write_now


def keep(connection: Connection, *rows: evidence.NewEvidence) -> None:
    """Store these rows, and two tasks, the first of them with two attempts."""
    plan_task(connection)
    plan_task(connection, "2")
    plan_attempt(connection, "sub_1b", "task_1", number=2)
    write_now(connection, evidence.upsert, list(rows))


def names(page: callbacks.CallbackPage) -> list[str]:
    return [row.id.removeprefix("ev_") for row in page.found]


def polled(name: str, **changes: Any) -> evidence.NewEvidence:
    return row(name, Verdict.FETCHED, witness=Witness.POLL, body=name.encode(), **changes)


async def test_only_callbacks_are_listed_newest_first_in_pages(database: Database) -> None:
    def unit(connection: Connection) -> list[Any]:
        keep(connection, row("1"), polled("2"), row("3", body=b"3"), polled("4"), row("5", Verdict.FORGED))
        first = callbacks.newest(connection, CallbackFilter(), limit=2)
        return [first, callbacks.newest(connection, CallbackFilter(), limit=2, before=first.next_cursor)]

    first, second = await database.write(unit)

    assert (names(first), first.next_cursor) == (["5", "3"], "ev_3")
    assert (names(second), second.next_cursor) == (["1"], None)


async def test_callbacks_are_filtered_by_verdict_and_by_task_over_all_attempts(database: Database) -> None:
    filters = [
        CallbackFilter(verdict=Verdict.SIGNED),
        CallbackFilter(verdict=Verdict.FORGED),
        CallbackFilter(verdict=Verdict.UNPROVEN),
        CallbackFilter(verdict=Verdict.FETCHED),
        CallbackFilter(task_id="task_1"),
        CallbackFilter(task_id="task_1", verdict=Verdict.FORGED),
        CallbackFilter(task_id="task_none"),
    ]

    def unit(connection: Connection) -> list[list[str]]:
        keep(
            connection,
            row("1"),
            row("2", Verdict.FORGED),
            row("3", Verdict.FORGED, attempt_id="sub_2"),
            row("4", attempt_id="sub_1b"),
            polled("5"),
        )
        return [names(callbacks.newest(connection, callback_filter, limit=9)) for callback_filter in filters]

    found = await database.write(unit)

    assert found == [["4", "1"], ["3", "2"], [], [], ["4", "2", "1"], ["2"], []]


async def test_the_next_page_of_unsigned_callbacks_starts_after_the_last(database: Database) -> None:
    def unit(connection: Connection) -> list[callbacks.CallbackPage]:
        keep(connection, *(row(str(number), Verdict.FORGED, b"%d" % number) for number in range(1, 4)))
        forged = CallbackFilter(verdict=Verdict.FORGED)
        first = callbacks.newest(connection, forged, limit=2)
        return [first, callbacks.newest(connection, forged, limit=2, before=first.next_cursor)]

    first, second = await database.write(unit)

    assert (names(first), first.next_cursor) == (["3", "2"], "ev_2")
    assert (names(second), second.next_cursor) == (["1"], None)


async def test_a_page_ends_after_the_maximum_of_rows_and_the_next_page_continues(database: Database) -> None:
    later = {"received_at": START + timedelta(seconds=1)}

    def unit(connection: Connection) -> list[callbacks.CallbackPage]:
        keep(connection, row("1"), polled("2"), polled("3", **later), polled("4"), row("5", body=b"5"), polled("6"))
        pages, before = [], None
        for _ in range(4):
            pages.append(callbacks.newest(connection, CallbackFilter(), limit=5, before=before, max_rows=2))
            before = pages[-1].next_cursor
        return pages

    pages = await database.write(unit)

    assert [names(page) for page in pages] == [["5"], [], ["1"], []]
    assert [page.next_cursor for page in pages] == ["ev_5", "ev_3", "ev_1", None]
