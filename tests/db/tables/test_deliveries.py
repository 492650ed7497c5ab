"""Deliveries: which endpoints have waiting ones, and which are due."""

from collections.abc import Callable
from typing import Any

from app.db import Connection
from app.db.engine.database import Database, open_database
from app.db.tables import deliveries, endpoints
from app.db.tables.deliveries import DeliveryState, NewDelivery
from app.db.tables.endpoints import EndpointState, NewEndpoint
from tests.rows import START


def put_endpoint(connection: Connection, name: str, state: EndpointState = EndpointState.ACTIVE) -> str:
    endpoint_id = f"ep_{name}"
    endpoints.ensure(connection, [NewEndpoint(endpoint_id, "key_1", f"https://{name}.example.com", START)])
    endpoints.change(connection, endpoint_id, endpoints.EndpointChange(state=state))
    return endpoint_id


def plan(
    connection: Connection,
    endpoint_id: str,
    *names: str,
    event: str = "stored",
    state: DeliveryState = DeliveryState.WAITING,
) -> None:
    rows = [
        NewDelivery(f"dlv_{name}", endpoint_id, None, event, "event", {}, START, START, state=state) for name in names
    ]
    deliveries.insert(connection, rows)


async def test_only_active_endpoints_with_waiting_deliveries_are_awaited(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        plan(connection, put_endpoint(connection, "busy"), "1", "2")
        plan(connection, put_endpoint(connection, "paused", EndpointState.PAUSED), "3")
        plan(connection, put_endpoint(connection, "served"), "4", state=DeliveryState.DELIVERED)
        put_endpoint(connection, "idle")

    await database.write(prepare)

    assert await database.read(deliveries.endpoints_with_waiting) == {"ep_busy"}


async def test_waiting_deliveries_of_a_paused_endpoint_are_not_read(sqlite_url: str) -> None:
    def prepare(connection: Connection) -> None:
        plan(connection, put_endpoint(connection, "paused", EndpointState.PAUSED), "1")

    async with open_database(sqlite_url) as database:
        await database.write(prepare)
        before = await database.read(counting_steps(deliveries.endpoints_with_waiting))
        await database.write(lambda connection: plan(connection, "ep_paused", *map(str, range(2, 500))))
        after = await database.read(counting_steps(deliveries.endpoints_with_waiting))

    assert after == before


async def test_finding_due_tests_does_not_read_other_waiting_deliveries(sqlite_url: str) -> None:
    looks: dict[str, Callable[[Connection], object]] = {
        "due": lambda connection: deliveries.due(connection, "ep_dead", START, 1, tests=True),
        "next": lambda connection: deliveries.next_due(connection, "ep_dead", tests=True),
    }

    async with open_database(sqlite_url) as database:

        async def steps() -> dict[str, int]:
            return {name: await database.read(counting_steps(look)) for name, look in looks.items()}

        await database.write(lambda connection: plan(connection, put_endpoint(connection, "dead"), "1"))
        before = await steps()
        await database.write(lambda connection: plan(connection, "ep_dead", *map(str, range(2, 500))))
        assert await steps() == before


async def test_a_waiting_test_is_found_among_other_waiting_deliveries(database: Database) -> None:
    def prepare(connection: Connection) -> None:
        plan(connection, put_endpoint(connection, "dead"), *map(str, range(20)))
        plan(connection, "ep_dead", "test", event=deliveries.TEST)
        plan(connection, "ep_dead", "tested", event=deliveries.TEST, state=DeliveryState.FAILED)

    await database.write(prepare)
    found = await database.read(lambda connection: deliveries.due(connection, "ep_dead", START, 9, tests=True))

    assert [delivery.id for delivery in found] == ["dlv_test"]
    assert await database.read(lambda connection: deliveries.next_due(connection, "ep_dead", tests=True)) == START


def counting_steps(work: Callable[[Connection], object]) -> Callable[[Connection], int]:
    """Return a unit that counts the steps of SQLite's virtual machine for `work`."""

    def counted(connection: Connection) -> int:
        steps: list[None] = []
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 1)
        work(connection)
        driver.set_progress_handler(None, 1)
        return len(steps)

    return counted
