"""Deliveries that wait while the retention of their tasks ends."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select, update

from app.db.tables.deliveries import DeliveryState, deliveries
from app.db.tables.endpoints import EndpointState, endpoints

_GIVEN_UP = "its endpoint was paused for longer than the data is kept"


def awaiting_delivery(connection: Connection, task_ids: Collection[str]) -> set[str]:
    """Return those of these tasks that have a delivery which waits."""
    waiting = (deliveries.c.task_id.in_(task_ids), deliveries.c.state == DeliveryState.WAITING)
    return set(connection.execute(select(deliveries.c.task_id).where(*waiting)).scalars())


def give_up_of_tasks(connection: Connection, task_ids: Collection[str], due_before: datetime, now: datetime) -> None:
    """End the deliveries of these tasks that wait for a paused endpoint and were due before this time."""
    _give_up(connection, deliveries.c.task_id.in_(task_ids), due_before, now)


def give_up_of_endpoint(
    connection: Connection, endpoint_id: str, due_before: datetime, now: datetime, limit: int
) -> int:
    """End deliveries that wait for this endpoint, if it is paused, and were due before this time; `limit` at most.

    Return their number.
    """
    waiting = (deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == DeliveryState.WAITING)
    overdue = select(deliveries.c.id).where(*waiting, deliveries.c.due_at < due_before)
    found = list(connection.execute(overdue.order_by(deliveries.c.due_at).limit(limit)).scalars())
    return _give_up(connection, deliveries.c.id.in_(found), due_before, now) if found else 0


def _give_up(connection: Connection, which: ColumnElement[bool], due_before: datetime, now: datetime) -> int:
    is_paused = select(endpoints.c.id).where(
        endpoints.c.id == deliveries.c.endpoint_id, endpoints.c.state == EndpointState.PAUSED
    )
    overdue = (which, deliveries.c.state == DeliveryState.WAITING, deliveries.c.due_at < due_before)
    ended = {"state": DeliveryState.FAILED, "detail": _GIVEN_UP, "ended_at": now}
    return connection.execute(update(deliveries).where(*overdue, is_paused.exists()).values(ended)).rowcount
