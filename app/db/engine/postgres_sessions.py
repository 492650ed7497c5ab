"""The pool of connections to PostgreSQL, and the settings of its sessions."""

from typing import Any

from sqlalchemy import Connection, NullPool, event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine.connector import Connector
from app.db.engine.postgres_errors import leave_a_standby
from app.db.engine.postgres_url import DATABASE_URL, make_engine
from app.db.engine.timeouts import Timeouts

_POOL = 10


def _settings(timeouts: Timeouts) -> dict[str, str]:
    milliseconds = str(int(timeouts.statement_s * 1000))
    return {
        "statement_timeout": milliseconds,
        # A transaction that a hanging or lost process leaves open keeps its locks, and keeps all later events from the
        # readers of the feed.
        "idle_in_transaction_session_timeout": milliseconds,
        # JIT compilation takes longer than any statement of ours, and a wrong estimate would start it.
        "jit": "off",
    }


def make_pool(
    url: str, connector: Connector, setting: str = DATABASE_URL, *, keeps_connections: bool = True
) -> AsyncEngine:
    """Return an engine whose transactions have our settings: those of their session or, through a pooler, their own.

    They are sent as statements, because poolers refuse them as parameters of the connection.
    """
    pool: dict[str, Any] = {"poolclass": NullPool}
    if keeps_connections:
        # A dead connection is found before it is used.
        timeout = connector.timeouts.connect_s
        pool = {"pool_pre_ping": True, "pool_size": _POOL, "max_overflow": 0, "pool_timeout": timeout}
    # Parameters are hidden because errors must not show prompts.
    engine = make_engine(url, connector, setting, hide_parameters=True, **pool)
    settings = _settings(connector.timeouts)
    for_session = [f"SET {name} = '{value}'" for name, value in settings.items()]
    for_transaction = "SELECT " + ", ".join(f"set_config('{name}', '{text}', true)" for name, text in settings.items())

    def set_for_session(connection: Any, _record: Any) -> None:
        if connector.is_pooled:
            return
        cursor = connection.cursor()
        for statement in for_session:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    def set_for_transaction(connection: Connection) -> None:
        if connector.is_pooled:
            connection.exec_driver_sql(for_transaction)

    event.listen(engine.sync_engine, "connect", set_for_session)
    event.listen(engine.sync_engine, "begin", set_for_transaction)
    event.listen(engine.sync_engine, "handle_error", leave_a_standby)
    return engine
