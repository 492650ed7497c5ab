"""The submitter of a task, read in one statement: the API key, the rights of its application, and its queued tasks."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import BindParameter, Connection, bindparam, func, literal_column, select

from app.db.tables import api_keys
from app.db.tables.api_keys import Key, keys
from app.db.tables.applications import applications, of, of_key
from app.db.tables.slots import slots
from app.db.tables.tasks import APPLICATION, IS_QUEUED
from app.rules.budget import Budget


@dataclass(frozen=True, slots=True)
class Submitter:
    """An API key and its application; `queued` is counted up to a bound.

    `limits`: those that differ from the defaults.
    """

    key: Key
    limits: Mapping[str, int | None] | None
    budget: Budget | None
    queued: int


_KEY_ID: BindParameter[str] = bindparam("key_id")
_submitting = keys.alias("submitting_key")
_APPLICATION_OF_KEY = select(of_key(_submitting)).where(_submitting.c.id == _KEY_ID).scalar_subquery()
_WAITING = (
    select(literal_column("1"))
    .where(APPLICATION == _APPLICATION_OF_KEY, IS_QUEUED)
    .limit(bindparam("count_to"))
    .subquery("waiting")
)
_GET = (
    select(
        keys,
        *api_keys.OF_APPLICATION,
        applications.c.limits.label("limits"),
        applications.c.budget.label("budget"),
        select(func.count()).select_from(_WAITING).scalar_subquery().label("queued"),
    )
    .select_from(keys.outerjoin(applications, applications.c.id == of_key(keys)))
    .where(keys.c.id == _KEY_ID)
)
_COUNT_SLOTS = select(func.count()).where(of(slots) == bindparam("application_id"))
_COUNT = select(func.count()).where(bindparam("application_id") == APPLICATION, IS_QUEUED)


def get(connection: Connection, key_id: str, count_to: int) -> Submitter | None:
    """Return the submitter with this key. Its queued tasks are counted up to `count_to`."""
    row = connection.execute(_GET, {"key_id": key_id, "count_to": count_to}).one_or_none()
    if row is None:
        return None
    return Submitter(api_keys.key_of(row), row.limits, row.budget and Budget.of_json(row.budget), row.queued)


def count_queued(connection: Connection, application_id: str) -> int:
    """Count the queued tasks of an application, those with a slot included."""
    counted: int = connection.execute(_COUNT, {"application_id": application_id}).scalar_one()
    return counted


def count_in_flight(connection: Connection, application_id: str) -> int:
    """Count the tasks of an application that have a slot."""
    counted: int = connection.execute(_COUNT_SLOTS, {"application_id": application_id}).scalar_one()
    return counted
