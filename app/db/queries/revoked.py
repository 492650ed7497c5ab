"""The queued tasks of revoked keys, which the sweep cancels. `queue.slot_of` says which are not sent meanwhile."""

from collections.abc import Collection

from sqlalchemy import Connection, select

from app.db.tables.tasks import IS_QUEUED, tasks


def queued(connection: Connection, key_ids: Collection[str], after: str, limit: int) -> list[str]:
    """Return the ids of queued tasks that these keys posted, lowest first, that follow the id `after`."""
    query = select(tasks.c.id).where(IS_QUEUED, tasks.c.key_id.in_(key_ids), tasks.c.id > after)
    return list(connection.execute(query.order_by(tasks.c.id).limit(limit)).scalars())
