from datetime import timedelta
from pathlib import Path

from app.cli.serving import prepare
from app.record import idempotency
from app.record.database import open_database
from app.resources import database_url
from app.settings import Settings
from tests.rows import START


async def test_a_start_forgets_the_requests_that_died_unanswered_with_the_last_process(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path})
    await prepare(settings)
    async with open_database(database_url(settings)) as database:
        await database.write(lambda connection: idempotency.begin(connection, "key", "cut", "d", START))
        await database.write(lambda connection: idempotency.begin(connection, "key", "answered", "d", START))
        await database.write(lambda connection: idempotency.answer(connection, "key", "answered", START, {"id": "t"}))

    await prepare(settings)

    later = START + timedelta(seconds=1)
    async with open_database(database_url(settings)) as database:
        again = await database.write(lambda connection: idempotency.begin(connection, "key", "cut", "d", later))
        kept = await database.read(lambda connection: idempotency.get(connection, "key", "answered"))
    assert again
    assert kept is not None
    assert kept.answer == {"id": "t"}
