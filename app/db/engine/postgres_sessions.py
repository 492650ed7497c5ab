"""The pool of connections to PostgreSQL, and the settings of its sessions."""

from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db.engine.connector import Connector
from app.db.engine.postgres_errors import leave_a_standby
from app.db.engine.postgres_url import DATABASE_URL, make_engine

_POOL = 10
_SETTINGS = {
    # A transaction that a hanging process leaves open keeps all later events from the readers of the feed.
    "idle_in_transaction_session_timeout": "60s",
    # JIT compilation takes longer than any statement of ours, and a wrong estimate would start it.
    "jit": "off",
}
_FOR_SESSION = [f"SET {name} = '{value}'" for name, value in _SETTINGS.items()]
_FOR_TRANSACTION = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())


def make_pool(url: str, connector: Connector, setting: str = DATABASE_URL) -> AsyncEngine:
    """Return an engine whose sessions have these settings; through a pooler, each transaction sets them for itself.

    They are sent as statements, because poolers refuse them as parameters of the connection.
    """
    # Parameters are hidden because errors must not show prompts. A dead connection is found before it is used.
    engine = make_engine(
        url,
        connector,
        setting,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=_POOL,
        max_overflow=0,
        pool_timeout=10,
    )

    def set_for_session(connection: Any, _record: Any) -> None:
        if connector.is_pooled:
            return
        cursor = connection.cursor()
        for statement in _FOR_SESSION:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    def set_for_transaction(connection: Connection) -> None:
        if connector.is_pooled:
            connection.exec_driver_sql(_FOR_TRANSACTION)

    event.listen(engine.sync_engine, "connect", set_for_session)
    event.listen(engine.sync_engine, "begin", set_for_transaction)
    event.listen(engine.sync_engine, "handle_error", leave_a_standby)
    return engine
