from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import spooled_results
from app.db.tables.spooled_results import SpoolHolder
from tests.rows import START

SECOND = timedelta(seconds=1)


async def test_the_instances_that_hold_an_image_are_recorded_until_deleted(database: Database) -> None:
    def unit(connection: Connection) -> list[set[str]]:
        for attempt, instance in (("sub_1", "host_a"), ("sub_1", "host_b"), ("sub_2", "host_a")):
            spooled_results.record_holder(connection, attempt, instance, START, tried=True)
        found = [spooled_results.instances(connection, "sub_1")]
        spooled_results.delete_holders(connection, "sub_1", "host_a")
        found.append(spooled_results.instances(connection, "sub_1"))
        spooled_results.delete_holders(connection, "sub_1")
        return [*found, spooled_results.instances(connection, "sub_1"), spooled_results.instances(connection, "sub_2")]

    assert await database.write(unit) == [{"host_a", "host_b"}, {"host_b"}, set(), {"host_a"}]


async def test_each_record_counts_whether_or_not_the_store_was_called(database: Database) -> None:
    def unit(connection: Connection) -> list[int]:
        tried = (False, True, False)
        return [
            spooled_results.record_holder(connection, "sub_1", "host_a", START, tried=was_tried) for was_tried in tried
        ]

    assert await database.write(unit) == [1, 2, 3]


async def test_spooled_images_are_counted_by_instance_oldest_first(database: Database) -> None:
    def unit(connection: Connection) -> list[SpoolHolder]:
        for later, (attempt, instance) in enumerate((("sub_1", "host_b"), ("sub_2", "host_a"), ("sub_3", "host_b"))):
            spooled_results.record_holder(connection, attempt, instance, START + later * SECOND, tried=True)
        return list(spooled_results.spool_holders(connection))

    assert await database.write(unit) == [SpoolHolder("host_b", 2, START), SpoolHolder("host_a", 1, START + SECOND)]
