"""A page of the list of applications, with what each has and uses."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, or_, select

from app.db.tables import applications
from app.db.tables.api_keys import keys
from app.db.tables.applications import Application
from app.db.tables.budget_periods import PeriodId, read
from app.db.tables.slots import slots


@dataclass(frozen=True, slots=True)
class Listed:
    """An application. `keys`: those that open it. `spent`: of its budget in this period, in credits; 0 without one."""

    application: Application
    keys: int
    in_flight: int
    spent: float


def page(connection: Connection, now: datetime, limit: int, before: str | None) -> Sequence[Listed]:
    """Return applications, newest first, with ids lower than `before`."""
    found = applications.newest(connection, limit, before)
    ids = [application.id for application in found]
    valid, running = _valid_keys(connection, ids, now), _in_flight(connection, ids)
    periods = {application.id: _period(application, now) for application in found}
    in_period = [period for period in periods.values() if period is not None]
    spent = read(connection, in_period) if in_period else {}
    return [
        Listed(
            application,
            valid.get(application.id, 0),
            running.get(application.id, 0),
            0.0 if period is None else spent.get(period, 0.0),
        )
        for application in found
        for period in [periods[application.id]]
    ]


def _period(application: Application, now: datetime) -> PeriodId | None:
    if application.budget is None:
        return None
    period = application.budget.period
    return PeriodId(application.id, period, period.start(now))


def _valid_keys(connection: Connection, application_ids: Collection[str], now: datetime) -> dict[str, int]:
    owner = applications.of_key(keys)
    is_valid = (keys.c.disabled_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now))
    counted = select(owner.label("id"), func.count().label("keys")).where(owner.in_(application_ids), *is_valid)
    return {row.id: row.keys for row in connection.execute(counted.group_by(owner))}


def _in_flight(connection: Connection, application_ids: Collection[str]) -> dict[str, int]:
    owner = applications.of(slots)
    counted = select(owner.label("id"), func.count().label("tasks")).where(owner.in_(application_ids))
    return {row.id: row.tasks for row in connection.execute(counted.group_by(owner))}
