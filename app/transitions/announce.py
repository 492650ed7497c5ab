"""Announce what becomes of tasks, in the transaction that moves them: so an event is there exactly when its reason is.

Every move is announced once, and nothing else is: who listens never has to guess whether a task has changed.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

from app.db import Connection
from app.db.engine.bulk import flush
from app.db.engine.commit_hooks import after_commit
from app.db.tables import events
from app.rules.task import Failure, Status
from app.telemetry import metrics
from app.webhooks import outbox

# Known from the start: a series that begins at 1 shows no rise.
for _end in ((Status.STORED, ""), (Status.CANCELLED, ""), *((Status.FAILED, failure) for failure in Failure)):
    metrics.tasks_ended.labels(*_end)


class Announcement(NamedTuple):
    """A task has come to `status`; `failure` says why it failed, if it did."""

    task_id: str
    status: Status
    failure: Failure | None = None
    is_told: bool = True  # False: nobody asked to be told of this task, so that need not be looked up

    @property
    def kind(self) -> str:
        return f"task.{self.status}"


def announce(connection: Connection, announcements: Sequence[Announcement], now: datetime) -> None:
    """Add these to the feed, in this order, and plan what is told; for a group of any size in a fixed number of
    statements.
    """
    events.append(
        connection,
        [
            (each.kind, each.task_id, _data(each.status, each.failure), now)  # nothing that was sent to us
            for each in announcements
        ],
    )
    for each in announcements:
        if each.status.final:
            after_commit(connection, metrics.tasks_ended.labels(each.status, each.failure or "").inc)
    wanted = [(each.task_id, each.status) for each in announcements if each.is_told]
    if wanted:
        flush(connection)  # it reads the tasks as they are now
        outbox.plan(connection, wanted, now)


@cache
def _data(status: Status, failure: Failure | None) -> str:
    """As JSON: there are not many."""
    return json.dumps({"status": status, "failure": failure})
