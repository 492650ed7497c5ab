"""Announce the moves of tasks, in the transaction of the move: an event exists exactly if its move is committed.

Every move is announced exactly once, and nothing else here. The only other event, the warning about a budget, comes
from `budgets`.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import NamedTuple

from app.db import Connection
from app.db.engine.bulk import DeferredWrites
from app.db.engine.commit_hooks import after_commit
from app.db.tables import events
from app.db.tables.events import NewEvent
from app.rules.task import Failure, Status
from app.telemetry import metrics
from app.webhooks import outbox
from app.webhooks.outbox import Reached

# Create these series at 0: `rate()` and `increase()` miss the first increment of a series that starts at 1.
for _end in ((Status.STORED, ""), (Status.CANCELLED, ""), *((Status.FAILED, failure) for failure in Failure)):
    metrics.tasks_ended.labels(*_end)


class Announcement(NamedTuple):
    """A task has moved to `status`; `failure` is set if it failed."""

    task_id: str
    status: Status
    failure: Failure | None = None
    has_webhook: bool = True  # False: the task has no webhook, so its row need not be read

    @property
    def kind(self) -> str:
        return f"task.{self.status}"


def announce(connection: Connection, announcements: Sequence[Announcement], now: datetime) -> None:
    """Append events to the feed, in this order, and plan webhooks. The number of statements does not grow with them."""
    writes = DeferredWrites(connection)
    append_events(writes, announcements, now)
    writes.send()
    plan_webhooks(connection, announcements, now)


def append_events(writes: DeferredWrites, announcements: Sequence[Announcement], now: datetime) -> None:
    """The first half of `announce`, which is sent with other writes."""
    # Events contain nothing that a client or the provider sent.
    new_events = [NewEvent(move.kind, move.task_id, _data(move.status, move.failure), now) for move in announcements]
    events.append(writes, new_events)
    for move in announcements:
        if move.status.final:
            after_commit(writes.connection, metrics.tasks_ended.labels(move.status, move.failure or "").inc)


def plan_webhooks(connection: Connection, announcements: Sequence[Announcement], now: datetime) -> None:
    """The second half of `announce`: plan webhooks, from the tasks' rows as they are after the moves."""
    with_webhook = [Reached(move.task_id, move.status) for move in announcements if move.has_webhook]
    if with_webhook:
        outbox.plan(connection, with_webhook, now)


@cache
def _data(status: Status, failure: Failure | None) -> str:
    """Return the event's data as JSON. Cached: there are few combinations."""
    return json.dumps({"status": status, "failure": failure})
