from datetime import timedelta

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import downloads
from tests.rows import START


def note(connection: Connection, name: str, task_id: str, outcome: str = "failed", detail: str | None = None) -> None:
    ended_at = START + timedelta(seconds=1)
    downloads.insert(connection, downloads.Download(f"dl_{name}", task_id, outcome, detail, START, ended_at))


async def test_downloads_are_stored_in_order_and_counted_for_each_task(database: Database) -> None:
    def unit(connection: Connection) -> tuple[list[downloads.Download], int, int]:
        note(connection, "1", "task_1", detail="HTTP 403")
        note(connection, "2", "task_2")
        note(connection, "3", "task_1", outcome="stored")
        return (
            downloads.of_task(connection, "task_1"),
            downloads.count(connection, "task_1"),
            downloads.count(connection, "task_none"),
        )

    found, count, count_of_unknown = await database.write(unit)

    assert [(download.outcome, download.detail) for download in found] == [("failed", "HTTP 403"), ("stored", None)]
    assert (count, count_of_unknown) == (2, 0)
