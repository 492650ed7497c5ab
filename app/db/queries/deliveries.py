"""Deliveries for users who inspect and replay them: filtered, in pages. Ids sort by creation time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, select, union_all

from app.db.tables import applications
from app.db.tables.deliveries import OF_ENDPOINT, Delivery, DeliveryState, deliveries, delivery_of, select_deliveries
from app.db.tables.endpoints import endpoints

_MAX_ENDPOINTS = 30  # up to this number, a page of deliveries is read endpoint by endpoint


class DeliveryRef(NamedTuple):
    """The ids of a delivery and of its endpoint."""

    id: str
    endpoint_id: str


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Conditions for deliveries; None matches any."""

    owner: str | None = None  # an application
    state: DeliveryState | None = None
    task_id: str | None = None
    endpoint_id: str | None = None


def newest(
    connection: Connection, delivery_filter: DeliveryFilter, *, limit: int, before: str | None = None
) -> list[Delivery]:
    """Return deliveries, newest first; with `before`, only those planned before the delivery with this id."""
    query = _filtered(select_deliveries(), delivery_filter).order_by(deliveries.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    if delivery_filter.task_id is None and (endpoint_ids := _endpoint_ids(connection, delivery_filter)):
        query = query.where(deliveries.c.id.in_(_newest_ids(endpoint_ids, delivery_filter.state, limit, before)))
    return [delivery_of(row) for row in connection.execute(query)]


def _endpoint_ids(connection: Connection, delivery_filter: DeliveryFilter) -> list[str]:
    """Return the endpoints that the filter allows, or an empty list if they are not limited to `_MAX_ENDPOINTS`."""
    if delivery_filter.endpoint_id is not None:
        return [delivery_filter.endpoint_id]
    if delivery_filter.owner is None:
        return []
    query = select(endpoints.c.id).where(endpoints.c.key_id == _key_id(delivery_filter)).limit(_MAX_ENDPOINTS + 1)
    endpoint_ids = list(connection.execute(query).scalars())
    return endpoint_ids if len(endpoint_ids) <= _MAX_ENDPOINTS else []


def _newest_ids(
    endpoint_ids: Collection[str], state: DeliveryState | None, limit: int, before: str | None
) -> Select[Any]:
    """Select the ids of the newest deliveries to these endpoints.

    An index has them in this order for each pair of endpoint and state, so each pair is read by itself.
    """
    older = [deliveries.c.id < before] if before is not None else []
    pages = [
        select(deliveries.c.id)
        .where(deliveries.c.endpoint_id == endpoint_id, deliveries.c.state == one_state, *older)
        .order_by(deliveries.c.id.desc())
        .limit(limit)
        .subquery()
        for endpoint_id in endpoint_ids
        for one_state in ([state] if state else DeliveryState)
    ]
    merged = union_all(*(select(page.c.id) for page in pages)).subquery()
    return select(merged.c.id).order_by(merged.c.id.desc()).limit(limit)


def failed_between(
    connection: Connection, begin: datetime, end: datetime, delivery_filter: DeliveryFilter, limit: int
) -> list[DeliveryRef]:
    """Return the deliveries that failed from `begin` up to, not including, `end`; earliest first."""
    query = (
        _filtered(select(deliveries.c.id, deliveries.c.endpoint_id).join(endpoints, OF_ENDPOINT), delivery_filter)
        .where(deliveries.c.state == DeliveryState.FAILED, deliveries.c.ended_at >= begin, deliveries.c.ended_at < end)
        .order_by(deliveries.c.ended_at, deliveries.c.id)
        .limit(limit)
    )
    return [DeliveryRef(row.id, row.endpoint_id) for row in connection.execute(query)]


def _filtered(query: Select[Any], delivery_filter: DeliveryFilter) -> Select[Any]:
    values = {
        endpoints.c.key_id: _key_id(delivery_filter),
        deliveries.c.state: delivery_filter.state,
        deliveries.c.task_id: delivery_filter.task_id,
        deliveries.c.endpoint_id: delivery_filter.endpoint_id,
    }
    return query.where(*(column == value for column, value in values.items() if value is not None))


def _key_id(delivery_filter: DeliveryFilter) -> str | None:
    """Return the id by which endpoints name the application."""
    return None if delivery_filter.owner is None else applications.first_key_id(delivery_filter.owner)
