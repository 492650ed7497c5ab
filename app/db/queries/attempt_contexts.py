"""Attempts with their tasks, locked, as a decision about evidence needs them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ClauseElement,
    ColumnElement,
    Connection,
    FromClause,
    exists,
    func,
    select,
)

from app.db.engine.bulk import BulkRead
from app.db.engine.columns import instant_of
from app.db.tables.attempts import attempts
from app.db.tables.reservations import reservations
from app.db.tables.slots import slots
from app.db.tables.tasks import tasks
from app.rules.task import AttemptState, Outcome, Status


class AttemptContext(NamedTuple):
    """The current state of an attempt and its task, as a decision about evidence needs it."""

    attempt_id: str
    task_id: str
    account_id: str
    key_id: str
    model: str
    has_webhook: bool
    has_slot: bool
    has_reservation: bool
    state: AttemptState


def lock_attempts(connection: Connection, attempt_ids: Iterable[str]) -> dict[str, AttemptContext]:
    """Lock these attempts and their tasks until the end of the transaction. Return them by attempt id.

    Unknown ids are left out. Tasks are locked in the order of their ids, so concurrent callers do not deadlock.
    """
    rows = [(attempt_id,) for attempt_id in attempt_ids]
    contexts = [_context_of(row) for row in _LOCK_ATTEMPTS.find(connection, rows)]
    return {context.attempt_id: context for context in contexts}


# The driver returns the values in this order, without names.
_CONTEXT: Mapping[str, ColumnElement[Any]] = {
    "attempt_id": attempts.c.id,
    "task_id": attempts.c.task_id,
    "outcome": attempts.c.outcome,
    "provider_id": attempts.c.provider_id,
    "cost": attempts.c.cost,
    "account_id": func.coalesce(attempts.c.account_id, tasks.c.account_id),
    "key_id": tasks.c.key_id,
    "model": tasks.c.model,
    "has_webhook": tasks.c.webhook_url.is_not(None),
    "status": tasks.c.status,
    "sample_url": tasks.c.sample_url,
    "sample_expires_at": tasks.c.sample_expires_at,
    "tries": tasks.c.tries,
    "is_current": tasks.c.attempt_id == attempts.c.id,
    "has_slot": exists().where(slots.c.task_id == tasks.c.id),
    "has_reservation": exists().where(reservations.c.task_id == tasks.c.id),
}


def _select_contexts(relation: FromClause, _dialect: str) -> ClauseElement:
    return (
        select(*_CONTEXT.values())
        .select_from(relation)
        .join(attempts, attempts.c.id == relation.c.id)
        .join(tasks, tasks.c.id == attempts.c.task_id)
        .order_by(tasks.c.id)
        .with_for_update(of=[tasks, attempts])
    )


_LOCK_ATTEMPTS = BulkRead({"id": attempts.c.id.type}, _select_contexts)
_STATUS = {status.value: status for status in Status}
_OUTCOME = {outcome.value: outcome for outcome in Outcome}


def _context_of(row: Sequence[Any]) -> AttemptContext:
    value = dict(zip(_CONTEXT, row, strict=True))
    expires_at = value["sample_expires_at"]
    return AttemptContext(
        attempt_id=value["attempt_id"],
        task_id=value["task_id"],
        account_id=value["account_id"],
        key_id=value["key_id"],
        model=value["model"],
        has_webhook=bool(value["has_webhook"]),
        has_slot=bool(value["has_slot"]),
        has_reservation=bool(value["has_reservation"]),
        state=AttemptState(
            status=_STATUS[value["status"]],
            current=bool(value["is_current"]),
            outcome=_OUTCOME[value["outcome"]],
            provider_id=value["provider_id"],
            sample_url=value["sample_url"],
            sample_expires_at=None if expires_at is None else instant_of(expires_at),
            cost=value["cost"],
            tries=value["tries"],
        ),
    )
