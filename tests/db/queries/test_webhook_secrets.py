"""The sealed webhook secrets that are still needed, on both engines."""

from app.db import Connection
from app.db.engine.database import Database
from app.db.queries import webhook_secrets
from app.db.tables import deliveries
from app.db.tables.deliveries import DeliveryState, NewDelivery
from app.rules.task import Status
from tests.rows import START, plan_task


def plan_delivery(connection: Connection, task_id: str, number: int, state: DeliveryState) -> None:
    delivery_id = f"dlv_{task_id}_{number}"
    row = NewDelivery(delivery_id, "ep_1", task_id, "stored", "event", {}, START, START, state=state)
    deliveries.insert(connection, [row])


async def test_secrets_of_open_tasks_and_tasks_with_waiting_deliveries_are_needed(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        plan_task(connection, "open", webhook_secret="a.open")
        plan_task(connection, "plain")
        for name, state in (
            ("waits", DeliveryState.WAITING),
            ("delivered", DeliveryState.DELIVERED),
        ):
            task_id = plan_task(connection, name, status=Status.STORED, webhook_secret=f"a.{name}")
            plan_delivery(connection, task_id, 1, state)
            plan_delivery(connection, task_id, 2, state)

    await database.write(prepare)

    assert sorted(await database.read(webhook_secrets.of_tasks)) == ["a.open", "a.waits"]
