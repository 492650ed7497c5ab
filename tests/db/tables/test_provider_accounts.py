from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import provider_accounts, slots
from app.db.tables.provider_accounts import Account, ConfiguredAccount
from tests.rows import START, put_account, take_slot

LATER = START + timedelta(seconds=30)


async def test_putting_an_account_again_updates_what_is_configured_only(database: Database) -> None:
    def unit(connection: Connection) -> Account | None:
        put_account(connection)
        provider_accounts.pause(connection, "account", START, LATER, provider_accounts.NO_FREE_SLOT, 3)
        put_account(connection, account=30)
        return provider_accounts.get(connection, "account")

    limits = {"account": 30, "flux-kontext-max": 6}
    pause = (3, START, LATER, provider_accounts.NO_FREE_SLOT)
    assert await database.write(unit) == Account("account", "bfl", limits, *pause, position=0)


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


async def test_the_configured_accounts_keep_their_order_and_the_others_their_slots(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[str], list[str], list[str]]:
        for name in "abc":
            put_account(connection, name)
        take_slot(connection, "1", account_id="b")
        provider_accounts.configure(connection, [ConfiguredAccount(name, "bfl", {"account": 3}) for name in "ca"])
        configured = [account.id for account in provider_accounts.list_configured(connection)]
        locked = [account.id for account in provider_accounts.lock_configured(connection)]
        return configured, locked, [slot.task_id for slot in slots.of_accounts(connection, "b")]

    assert await database.write(unit) == (["c", "a"], ["c", "a"], ["task_1"])
