"""Tasks that wait in the queue stay there, and admission steps over them."""

from datetime import timedelta

from app import clock
from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import provider_accounts
from app.db.tables.provider_accounts import ConfiguredAccount
from app.transitions.admit import admit
from app.worker import sweep
from benchmarks.waiting import MODEL, OTHER_MODEL, crowds, wait
from tests.rows import plan_task

ACCOUNTS = (
    ConfiguredAccount("measured", "bfl", {"account": 25}, models=[MODEL]),
    ConfiguredAccount("full", "bfl", {"account": 1}, models=[OTHER_MODEL]),
)


async def test_waiting_tasks_are_stepped_over_and_the_sweep_finds_nothing_missing(database: Database) -> None:
    await wait(database, "ring", crowds("measured", "full"), 40)
    now = clock.utc_now() + timedelta(seconds=1)

    def configure(connection: Connection) -> None:
        provider_accounts.configure(connection, ACCOUNTS)
        assert admit(connection, now) == []

    def post(connection: Connection) -> None:
        posted = plan_task(connection, at=now)
        assert admit(connection, now) == [posted]

    await database.write(configure)
    assert await database.read(sweep.orphaned) == []
    await database.write(post)
