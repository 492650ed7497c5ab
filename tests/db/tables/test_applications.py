"""To which application a row belongs, also one that an earlier version wrote."""

from sqlalchemy import select

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import api_keys, applications, slots, tasks
from app.db.tables.api_keys import NewApiKey
from app.db.tables.events import events
from app.rules.task import Status
from app.transitions.announce import Announcement, announce
from tests.rows import START, newest_tasks, plan_task, take_slot


async def test_a_row_without_an_application_belongs_to_the_one_that_its_key_became(database: Database) -> None:
    def unit(connection: Connection) -> list[tuple[str, str]]:
        plan_task(connection, "own", key_id="key_2", application_id="app_1")
        plan_task(connection, "old", key_id="key_1", application_id=None)
        for number, name in enumerate(("own", "old")):
            take_slot(connection, name, number)
            announce(connection, [Announcement(f"task_{name}", Status.QUEUED)], START)
        return [
            (row.key_id, row.owner)
            for table in (tasks.tasks, slots.slots, events)
            for row in connection.execute(select(table.c.key_id, applications.of(table).label("owner")))
        ]

    found = await database.write(unit)

    assert [owner for _, owner in found] == ["app_1"] * 6
    assert {task.application_id for task in await database.read(lambda c: newest_tasks(c, 9))} == {"app_1"}


async def test_the_first_key_makes_its_application_and_a_second_one_joins_it(database: Database) -> None:
    def unit(connection: Connection) -> list[api_keys.Key]:
        api_keys.put(connection, NewApiKey("key_1", "shop", "aa", [], START))
        api_keys.put(connection, NewApiKey("key_2", "shop, next year", "bb", [], START, application_id="app_1"))
        return api_keys.newest(connection, 100)

    keys = await database.write(unit)
    shop, other = await database.read(lambda c: [applications.get(c, name) for name in ("app_1", "app_2")])

    assert {key.application_id for key in keys} == {"app_1"}
    assert shop == applications.Application("app_1", "shop", START)
    assert other is None
