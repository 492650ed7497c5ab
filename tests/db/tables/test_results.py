from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import results
from tests.rows import START

IMAGE: dict[str, Any] = {
    "store_key": "results/ab/ab.png",
    "sha256": "ab",
    "media_type": "image/png",
    "bytes": 3,
    "width": 2,
    "height": 1,
}


async def test_a_result_is_found_by_its_task(database: Database) -> None:
    def unit(connection: Connection) -> dict[str, results.Result]:
        for task_id in ("task_1", "task_2"):
            results.insert(connection, results.Result(task_id=task_id, stored_at=START, **IMAGE))
        return results.of_tasks(connection, ["task_1", "task_none"])

    assert await database.write(unit) == {"task_1": results.Result(task_id="task_1", stored_at=START, **IMAGE)}


async def test_an_empty_list_of_tasks_has_no_results(database: Database) -> None:
    assert await database.read(lambda connection: results.of_tasks(connection, [])) == {}


async def test_a_second_result_of_a_task_is_rejected(database: Database) -> None:
    def unit(connection: Connection) -> None:
        for _ in range(2):
            results.insert(connection, results.Result(task_id="task_1", stored_at=START, **IMAGE))

    with pytest.raises(IntegrityError):
        await database.write(unit)
    assert await database.read(lambda connection: results.of_tasks(connection, ["task_1"])) == {}
