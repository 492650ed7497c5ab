"""The pool of connections to PostgreSQL, and the settings of its sessions."""

from typing import Any

from sqlalchemy import Connection, NullPool, event

from app.db.engine.async_engine import AsyncEngine
from app.db.engine.connector import Connector, session_settings
from app.db.engine.postgres_errors import leave_a_standby
from app.db.engine.postgres_url import DATABASE_URL, make_engine

POOL = 10
_AT_ONCE = 4  # short transactions, if the server answers at once
_FAR_S = 0.003  # with a round trip of this length or longer, all connections are used


def most_short(round_trip_s: float) -> int:
    """Return how many short transactions may run at once: more if they wait longer for the server.

    Each answer waits for an iteration of the event loop, and the more transactions there are, the longer it takes. More
    of them than the process can serve would each take longer, and would not end sooner.
    """
    return _AT_ONCE + int(min(round_trip_s / _FAR_S, 1) * (POOL - 1 - _AT_ONCE))


def make_pool(
    url: str, connector: Connector, setting: str = DATABASE_URL, *, keeps_connections: bool = True
) -> AsyncEngine:
    """Return an engine whose transactions have our settings: those of their session or, through a pooler, their own.

    They are sent as statements, because poolers refuse them as parameters of the connection.
    """
    pool: dict[str, Any] = {"poolclass": NullPool}
    if keeps_connections:
        # A dead connection is found by the first statement of a transaction, which is then run again on a new one. To
        # ping it before would take three round trips for each transaction.
        pool = {"pool_size": POOL, "max_overflow": 0, "pool_timeout": connector.timeouts.connect_s}
    # Parameters are hidden because errors must not show prompts.
    engine = make_engine(url, connector, setting, hide_parameters=True, **pool)
    settings = session_settings(connector.timeouts)
    for_transaction = "SELECT " + ", ".join(f"set_config('{name}', '{text}', true)" for name, text in settings.items())

    def set_for_transaction(connection: Connection) -> None:
        if connector.is_pooled:
            connection.exec_driver_sql(for_transaction)

    event.listen(engine.sync_engine, "begin", set_for_transaction)
    event.listen(engine.sync_engine, "handle_error", leave_a_standby)
    return engine
