"""The audit of administrative actions: a record is written in the transaction of the change."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.db import Connection
from app.db.tables import audit
from app.db.tables.audit import NewEntry


class Action(StrEnum):
    KEY_CREATED = "key.created"
    KEY_CHANGED = "key.changed"
    KEY_DISABLED = "key.disabled"
    APPLICATION_CREATED = "application.created"
    APPLICATION_CHANGED = "application.changed"
    APPLICATION_DISABLED = "application.disabled"
    TASK_ASKED = "task.asked"
    TASK_CANCELLED = "task.cancelled"
    TASK_RESUBMITTED = "task.resubmitted"
    TASK_SETTLED = "task.settled"
    TASK_ERASED = "task.erased"
    USER_ERASED = "user.erased"
    DELIVERY_REPLAYED = "delivery.replayed"
    ENDPOINT_RESUMED = "endpoint.resumed"
    ENDPOINT_TESTED = "endpoint.tested"
    JOB_REQUEUED = "job.requeued"


@dataclass(frozen=True, slots=True)
class Actor:
    """The origin of an action: a key, its application, and the network address of the client."""

    key_id: str | None
    application_id: str | None
    address: str | None


SERVICE = Actor(None, None, None)  # the service itself, as at its start
ALL = "all"  # the subject of an action on several objects


def record(
    connection: Connection,
    actor: Actor,
    action: Action,
    subject: str,
    now: datetime,
    detail: Mapping[str, str | int | bool | None] | None = None,
) -> None:
    """Append a record to the audit. Call it last in the transaction.

    On PostgreSQL it takes a lock until the transaction ends, so that the records form one chain. As the last lock of a
    transaction it cannot deadlock, and others wait for a commit only.

    `subject`: the id of the object, or ALL. `detail`: facts such as a number; never a secret, or what a client sent.
    """
    audit.append(
        connection,
        NewEntry(
            at=now,
            key_id=actor.key_id,
            application_id=actor.application_id,
            address=actor.address,
            action=action,
            subject=subject,
            detail=dict(detail or {}),
        ),
    )
