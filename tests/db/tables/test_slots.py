import pytest
from sqlalchemy.exc import IntegrityError

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import slots
from app.db.tables.slots import Slot
from tests.rows import take_slot


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
        before = slots.of_accounts(connection, "account")
        freed = slots.release(connection, ["task_a", "task_d", "task_none"])
        again = slots.release(connection, ["task_a"])
        return before, freed, again, slots.of_accounts(connection, "account")

    before, freed, again, after = await database.write(unit)

    assert sorted(slot.number for slot in before) == [1, 2, 3]
    assert (freed, again) == ({"account", "other"}, set())
    assert sorted(slot.task_id for slot in after) == ["task_b", "task_c"]
