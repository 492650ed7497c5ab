"""The table `request_rates`: how far each application has used up its requests per minute, see `rules.limits.take`."""

from datetime import datetime

from sqlalchemy import Column, Connection, String, Table, bindparam, select

from app.db.engine.columns import Instant, insert_into, metadata
from app.rules.limits import Rate

request_rates = Table(
    "request_rates",
    metadata,
    Column("application_id", String(48), primary_key=True),
    Column("rate", String(32), primary_key=True),
    Column("busy_until_at", Instant, nullable=False),
)
_LOCK = (
    select(request_rates.c.busy_until_at)
    .where(request_rates.c.application_id == bindparam("application_id"), request_rates.c.rate == bindparam("rate"))
    .with_for_update()
)


def lock(connection: Connection, application_id: str, rate: Rate, now: datetime) -> datetime:
    """Return until when a rate is used up, locked until the transaction ends. A missing row is inserted."""
    key = {"application_id": application_id, "rate": rate}
    busy_until: datetime | None = connection.execute(_LOCK, key).scalar_one_or_none()
    if busy_until is not None:
        return busy_until
    statement = insert_into(request_rates, connection.dialect.name).values(**key, busy_until_at=now)
    connection.execute(statement.on_conflict_do_nothing())
    inserted: datetime = connection.execute(_LOCK, key).scalar_one()
    return inserted


def put(connection: Connection, application_id: str, rate: Rate, busy_until: datetime) -> None:
    """Write until when a rate is used up. The caller must hold the lock."""
    statement = insert_into(request_rates, connection.dialect.name).values(
        application_id=application_id, rate=rate, busy_until_at=busy_until
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["application_id", "rate"], set_={"busy_until_at": statement.excluded.busy_until_at}
        )
    )
