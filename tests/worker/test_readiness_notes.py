"""The notes for an operator: a wrong clock, a late feed, paused accounts and spooled images."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import budget_periods, provider_accounts, spooled_results
from app.db.tables.budget_periods import ALL, PeriodId
from app.rules.budget import Budget, Period
from app.rules.task import Status
from app.transitions.announce import Announcement, announce
from app.worker import readiness_notes
from app.worker.readiness_notes import Note
from tests.databases import connection_to
from tests.rows import START, plan_task, put_account

LATER = START + timedelta(minutes=1)


def read(connection: Connection) -> list[Note]:
    return readiness_notes.read(connection, START, callbacks_expected=True)


async def test_an_idle_service_has_no_notes(database: Database) -> None:
    assert await database.read(read) == []


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (timedelta(seconds=2), None),
        (timedelta(seconds=-2), None),
        (timedelta(seconds=2.5), "2.5 s ahead of the database's"),
        (timedelta(hours=-1), "3600.0 s behind the database's"),
    ],
)
async def test_a_clock_that_differs_by_more_than_two_seconds_is_an_unhealthy_note(
    database: Database, ahead: timedelta, said: str | None
) -> None:
    notes = await database.read(readiness_notes.read, START, callbacks_expected=True, clock_ahead=ahead)

    assert [(note.subject, note.unhealthy) for note in notes] == ([] if said is None else [("clock", True)])
    assert all(said in note.text for note in notes if said)


async def test_a_paused_account_is_a_note_until_the_pause_ends(database: Database) -> None:
    def pause(connection: Connection) -> None:
        put_account(connection)
        provider_accounts.pause(connection, "account", START, LATER, "out of credits", 1)

    await database.write(pause)
    (note,) = await database.read(read)

    assert (note.subject, note.unhealthy) == ("account", True)
    assert note.text == f"no tasks are submitted until {LATER}: out of credits"
    assert (
        await database.read(lambda connection: readiness_notes.read(connection, LATER, callbacks_expected=True)) == []
    )


async def test_spooled_images_are_an_unhealthy_note_that_names_their_instance(database: Database) -> None:
    def spool(connection: Connection) -> None:
        spooled_results.record_holder(connection, "sub_1", "host_1", START, tried=True)
        spooled_results.record_holder(connection, "sub_2", "host_1", LATER, tried=True)

    await database.write(spool)
    (note,) = await database.read(read)

    assert (note.subject, note.unhealthy) == ("spool", True)
    assert "instance_id host_1 spools images until the store accepts them: 2, the oldest since" in note.text
    assert str(START) in note.text


async def test_a_late_feed_is_an_unhealthy_note_whose_details_name_the_transaction(postgres_url: str) -> None:
    def happened(connection: Connection) -> None:
        plan_task(connection)
        announce(connection, [Announcement("task_1", Status.QUEUED)], START)

    def read_later(connection: Connection, seconds: int) -> list[Note]:
        return readiness_notes.read(connection, START + timedelta(seconds=seconds), callbacks_expected=True)

    async with open_database(postgres_url) as database, connection_to(postgres_url) as other:
        await other.execute(text("SELECT pg_current_xact_id()"))
        await database.write(happened)
        soon = await database.read(read_later, 30)
        (note,) = await database.read(read_later, 75)
        await other.commit()
        after = await database.read(read_later, 75)

    assert (soon, after) == ([], [])
    assert (note.subject, note.unhealthy) == ("feed", True)
    assert note.text.startswith("events of the feed are late: ")
    assert note.text.endswith(", open for 75 s")
    assert note.details.startswith("process ")


@pytest.mark.parametrize(("spent", "unhealthy"), [(7.9, None), (8.0, False), (10.0, True)])
async def test_a_budget_that_is_nearly_used_is_a_note_and_unhealthy_once_it_is_used_up(
    database: Database, spent: float, unhealthy: bool | None
) -> None:
    budget = Budget.parse("10/day")

    def read_with_budget(connection: Connection) -> list[Note]:
        return readiness_notes.read(connection, START, callbacks_expected=True, budget=budget)

    await database.write(budget_periods.create, PeriodId(ALL, Period.DAY, Period.DAY.start(START)), spent)
    notes = await database.read(read_with_budget)

    assert [note.unhealthy for note in notes] == ([] if unhealthy is None else [unhealthy])
    assert {note.details for note in notes} <= {f"the service: {spent:g} of 10/day"}
