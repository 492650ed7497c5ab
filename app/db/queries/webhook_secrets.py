"""The sealed webhook secrets that are still needed to sign deliveries."""

from sqlalchemy import Connection, select, union

from app.db.tables.api_keys import keys
from app.db.tables.applications import applications
from app.db.tables.deliveries import DeliveryState, deliveries
from app.db.tables.tasks import tasks
from app.rules.task import Status

_OPEN = tuple(status for status in Status if not status.final)


def of_tasks(connection: Connection) -> list[str]:
    """Return the sealed secret of each task that has one and is either not final or has waiting deliveries."""
    secrets = select(tasks.c.id, tasks.c.webhook_secret).where(tasks.c.webhook_secret.is_not(None))
    has_waiting = tasks.c.id.in_(select(deliveries.c.task_id).where(deliveries.c.state == DeliveryState.WAITING))
    query = union(secrets.where(tasks.c.status.in_(_OPEN)), secrets.where(has_waiting))
    return [secret for _, secret in connection.execute(query)]


def of_owners(connection: Connection) -> list[str]:
    """Return the sealed secret of each enabled key and each enabled application that has one."""
    return [
        secret
        for table in (keys, applications)
        for (secret,) in connection.execute(
            select(table.c.webhook_secret).where(table.c.webhook_secret.is_not(None), table.c.disabled_at.is_(None))
        )
    ]
