"""The metadata of the tables, and the column types that both databases share."""

from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, MetaData, Row, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeDecorator

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

_NO_ZONE = "a datetime without a time zone cannot be stored"
_WITHOUT_ZONE = len("0001-01-01 00:00:00.000000")


@lru_cache(maxsize=256)
def sortable(instant: datetime) -> str:
    """Return the text in UTC that SQLite stores; it sorts by time. Raises ValueError if there is no time zone."""
    if instant.tzinfo is None:
        raise ValueError(_NO_ZONE)
    in_utc = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return in_utc.isoformat(" ", "microseconds")[:_WITHOUT_ZONE]


def instant_of(value: str | datetime) -> datetime:
    """Return the instant in UTC for a driver's value: text from SQLite, a datetime from asyncpg."""
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    # asyncpg returns `datetime.min` and `datetime.max`, for the infinities of PostgreSQL, without a time zone.
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant: `timestamptz` on PostgreSQL, sortable text in UTC on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(_NO_ZONE)
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else instant_of(value)


def insert_into(table: Table, dialect: str) -> postgresql.Insert:
    """Return an INSERT that can have an ON CONFLICT clause, which is the same on both databases."""
    insert: postgresql.Insert = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    return insert


def by_key(table: Table, row: Row[Any]) -> dict[str, Any]:
    """Return the values of a row by the column keys of Python; a driver uses the names of SQL."""
    keys = _keys(table)
    return {keys.get(name, name): value for name, value in row._asdict().items()}


@cache
def _keys(table: Table) -> dict[str, str]:
    return {column.name: column.key for column in table.columns}
