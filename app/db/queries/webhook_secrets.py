"""Which sealed webhook secrets are still needed: by tasks that somebody is being told of, or will be."""

from sqlalchemy import Connection, select, union

from app.db.tables.deliveries import State, deliveries
from app.db.tables.tasks import tasks
from app.rules.task import Status

_OPEN = tuple(status for status in Status if not status.final)


def of_tasks(connection: Connection) -> list[str]:
    """One for each task that has a secret of its own, and either has not ended or is being told of."""
    secrets = select(tasks.c.id, tasks.c.webhook_secret).where(tasks.c.webhook_secret.is_not(None))
    is_told = tasks.c.id.in_(select(deliveries.c.task_id).where(deliveries.c.state == State.WAITING))
    query = union(secrets.where(tasks.c.status.in_(_OPEN)), secrets.where(is_told))
    return [secret for _, secret in connection.execute(query)]
