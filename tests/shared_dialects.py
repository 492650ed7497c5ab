"""One cache of compiled SQL for all databases of a test run.

SQLAlchemy compiles each statement once per engine. Each test opens its own engine, so without this cache a quarter of
the run would be spent compiling the same statements again.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

_STATEMENTS = 5000
_compiled: LRUCache[Any, Any] = LRUCache(_STATEMENTS)


class SharedSqlite(SQLiteDialect_pysqlite):
    """All instances are equal, because the dialect is part of the key of a compiled statement."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


class SharedAsyncpg(PGDialect_asyncpg):
    """As SharedSqlite. All tests use one server, so its version and settings are the same for all."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))


def install() -> None:
    """Make every engine created from now on use the shared cache."""
    registry.register("sqlite", __name__, SharedSqlite.__name__)
    registry.register("postgresql.asyncpg", __name__, SharedAsyncpg.__name__)
    event.listen(Engine, "engine_connect", _share)


def _share(connection: Connection) -> None:
    connection.execution_options(compiled_cache=_compiled)
