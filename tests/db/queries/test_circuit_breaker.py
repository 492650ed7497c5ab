from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import circuit_breaker
from app.db.tables import spooled_results
from tests.rows import START

SECOND = timedelta(seconds=1)


async def test_the_circuit_is_open_for_15_seconds_after_the_latest_failure_of_the_store(database: Database) -> None:
    def unit(connection: Connection) -> list[bool]:
        spooled_results.record_holder(connection, "sub_1", "host_a", START, tried=False)
        is_open = [circuit_breaker.is_open(connection, START)]
        spooled_results.record_holder(connection, "sub_1", "host_a", START + SECOND, tried=True)
        spooled_results.record_holder(connection, "sub_1", "host_a", START + 9 * SECOND, tried=False)
        return is_open + [circuit_breaker.is_open(connection, START + after * SECOND) for after in (15, 16)]

    assert await database.write(unit) == [False, True, False]
