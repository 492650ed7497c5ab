from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import provider_accounts
from app.db.tables.provider_accounts import Account, Slot
from tests.rows import START, put_account, take_slot

LATER = START + timedelta(seconds=30)


async def test_putting_an_account_again_updates_its_limits_only(database: Database) -> None:
    def unit(connection: Connection) -> Account | None:
        put_account(connection)
        provider_accounts.pause(connection, "account", START, LATER, provider_accounts.NO_FREE_SLOT, 3)
        put_account(connection, account=30)
        return provider_accounts.get(connection, "account")

    assert await database.write(unit) == Account(
        "account", "bfl", {"account": 30, "flux-kontext-max": 6}, 3, START, LATER, provider_accounts.NO_FREE_SLOT
    )


async def test_an_unknown_account_is_none(database: Database) -> None:
    def unit(connection: Connection) -> list[Account | None]:
        return [provider_accounts.get(connection, "x"), provider_accounts.lock(connection, "x")]

    assert await database.write(unit) == [None, None]


async def test_a_pause_ends_at_its_time(database: Database) -> None:
    def unit(connection: Connection) -> list[bool]:
        put_account(connection)
        provider_accounts.pause(connection, "account", START, LATER, provider_accounts.OUT_OF_CREDITS, 1)
        moments = (START, LATER - timedelta(microseconds=1), LATER)
        return [bool(provider_accounts.paused(connection, now)) for now in moments]

    assert await database.write(unit) == [True, True, False]


async def test_resuming_clears_a_pause_that_is_over_and_keeps_one_that_is_not(database: Database) -> None:
    def unit(connection: Connection) -> list[int]:
        put_account(connection)
        provider_accounts.pause(connection, "account", START, LATER, provider_accounts.NO_FREE_SLOT, 2)
        refusals = []
        for now in (START, LATER):
            provider_accounts.resume(connection, "account", now)
            account = provider_accounts.get(connection, "account")
            assert account is not None
            refusals.append(account.refusals)
        return refusals

    assert await database.write(unit) == [2, 0]


@pytest.mark.parametrize("again", [{"number": 2}, {"name": "2"}], ids=["one task twice", "one slot twice"])
async def test_the_database_rejects_a_slot_that_is_taken_twice(database: Database, again: dict[str, object]) -> None:
    def unit(connection: Connection) -> None:
        take_slot(connection)
        take_slot(connection, **again)  # type: ignore[arg-type]

    with pytest.raises(IntegrityError):
        await database.write(unit)


async def test_a_slot_is_a_row_while_it_is_taken(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[Slot], set[str], set[str], list[Slot]]:
        for number, name in enumerate("abc", 1):
            take_slot(connection, name, number)
        take_slot(connection, "d", 1, account_id="other")
        before = provider_accounts.slots_taken(connection, "account")
        freed = provider_accounts.release(connection, ["task_a", "task_d", "task_none"])
        again = provider_accounts.release(connection, ["task_a"])
        return before, freed, again, provider_accounts.slots_taken(connection, "account")

    before, freed, again, after = await database.write(unit)

    assert sorted(slot.number for slot in before) == [1, 2, 3]
    assert (freed, again) == ({"account", "other"}, set())
    assert sorted(slot.task_id for slot in after) == ["task_b", "task_c"]


async def test_the_ids_of_all_accounts_are_sorted(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        for name in "ba":
            put_account(connection, name)
        return provider_accounts.all_ids(connection)

    assert await database.write(unit) == ["a", "b"]
