"""The table `slots`: the slots of provider accounts that are taken, one row for each.

Slots are given out under the lock of the rows of all accounts (see `provider_accounts`).
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import (
    ClauseElement,
    Column,
    Connection,
    FromClause,
    Integer,
    String,
    Table,
    bindparam,
    delete,
    exists,
    func,
    select,
)

from app.db.engine.bulk import Bulk
from app.db.engine.columns import Instant, metadata
from app.db.tables.provider_accounts import Account
from app.db.tables.tasks import APPLICATION, tasks
from app.rules.task import Status

_SLOT_STATES = (Status.QUEUED, Status.SUBMITTING, Status.SUBMITTED)  # in any other state a task has no slot
slots = Table(
    "slots",
    metadata,
    Column("account_id", String(48), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("task_id", String(48), nullable=False, unique=True),
    Column("key_id", String(48), nullable=False),
    Column("application_id", String(48)),  # NULL in rows of earlier versions, see `applications.of`
    Column("model", String(64), nullable=False),
    Column("taken_at", Instant, nullable=False),
)


class Slot(NamedTuple):
    account_id: str
    number: int
    task_id: str
    model: str


class TakenSlot(NamedTuple):
    """A slot as it is given to a task."""

    account_id: str
    number: int
    task_id: str
    key_id: str
    model: str
    taken_at: datetime


_SLOTS_TAKEN = select(slots.c.account_id, slots.c.number, slots.c.task_id, slots.c.model).where(
    slots.c.account_id.in_(bindparam("account_ids", expanding=True))
)
_SENT = select(func.count()).where(
    slots.c.account_id == bindparam("account_id"),
    slots.c.task_id == tasks.c.id,
    tasks.c.status.in_((Status.SUBMITTING, Status.SUBMITTED)),
)
_TAKE = slots.insert().values(
    application_id=select(APPLICATION).where(tasks.c.id == bindparam("of_task")).scalar_subquery()
)


def in_use(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of taken slots, by account id and model."""
    query = select(slots.c.account_id, slots.c.model, func.count()).group_by(slots.c.account_id, slots.c.model)
    return {(account_id, model): count for account_id, model, count in connection.execute(query)}


def of_accounts(connection: Connection, *account_ids: str) -> list[Slot]:
    """Return the taken slots of these accounts, in no particular order."""
    rows = connection.execute(_SLOTS_TAKEN, {"account_ids": account_ids})
    return [Slot(row.account_id, row.number, row.task_id, row.model) for row in rows]


def count_sent(connection: Connection, account_id: str) -> int:
    """Count the tasks with a slot of this account that the provider has or may have."""
    return int(connection.execute(_SENT, {"account_id": account_id}).scalar_one())


def has_probe(connection: Connection, account: Account, after: datetime) -> bool:
    """Return whether a task has a slot that it was given since the account's last pause, and later than `after`."""
    since = account.paused_until_at or after
    query = select(slots.c.number).where(
        slots.c.account_id == account.id, slots.c.taken_at >= since, slots.c.taken_at > after
    )
    return connection.execute(query.limit(1)).one_or_none() is not None


def take(connection: Connection, slots: Sequence[TakenSlot]) -> None:
    """Take slots. The primary key rejects a slot that is already taken, as a safeguard beside the account's lock."""
    connection.execute(_TAKE, [{**slot._asdict(), "of_task": slot.task_id} for slot in slots])


def release(connection: Connection, task_ids: Collection[str]) -> set[str]:
    """Free the slots of these tasks. Return the ids of the accounts that had them."""
    return {row[0] for row in _RELEASE.run(connection, [(task_id,) for task_id in task_ids])}


def reclaim(connection: Connection) -> set[str]:
    """Free the slots of tasks that do not exist or whose state allows no slot. Return the ids of these tasks."""
    may_have_slot = exists().where(tasks.c.id == slots.c.task_id, tasks.c.status.in_(_SLOT_STATES))
    return set(connection.execute(delete(slots).where(~may_have_slot).returning(slots.c.task_id)).scalars())


def _delete_slots(relation: FromClause, _dialect: str) -> ClauseElement:
    return delete(slots).where(slots.c.task_id.in_(select(relation.c.task_id))).returning(slots.c.account_id)


_RELEASE = Bulk({"task_id": slots.c.task_id.type}, _delete_slots)
