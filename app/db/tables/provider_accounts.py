"""The tables `accounts` and `slots`: the limits of provider accounts for tasks in flight, and the slots taken.

A taken slot is a row. Slots are given out under the lock of the account's row, so two processes never give out the same
slot, and each sees the slots that the other has just freed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
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
    Text,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    update,
)

from app.db.engine.bulk import Bulk
from app.db.engine.columns import Instant, Json, insert_into, metadata
from app.db.tables.tasks import tasks
from app.rules.task import Status

# Reasons for a pause, shown to users and used as labels of a metric.
OUT_OF_CREDITS = "out of credits"
NO_FREE_SLOT = "the provider has no free slot"
KEY_REFUSED = "the provider refuses the API key"
BLOCKED = "a gateway in front of the provider refuses requests"
REASONS = (NO_FREE_SLOT, OUT_OF_CREDITS, KEY_REFUSED, BLOCKED)
# After a pause for one of these reasons, one task is sent as a probe. The others wait until it is accepted.
_PROBED = frozenset({OUT_OF_CREDITS, KEY_REFUSED, BLOCKED})

_SLOT_STATES = (Status.QUEUED, Status.SUBMITTING, Status.SUBMITTED)  # in any other state a task has no slot

IN_ALL = "account"  # the name of the limit for all models together

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("provider", String(32), nullable=False),
    Column("limits", Json, nullable=False),  # by model name; "account" is the limit for all models together
    Column("refusals", Integer, nullable=False),  # consecutive; the length of a pause grows with them
    Column("refused_since_at", Instant),
    Column("paused_until_at", Instant),
    Column("pause_reason", Text),
)

slots = Table(
    "slots",
    metadata,
    Column("account_id", String(48), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("task_id", String(48), nullable=False, unique=True),
    Column("key_id", String(48), nullable=False),
    Column("model", String(64), nullable=False),
    Column("taken_at", Instant, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    provider: str
    limits: Mapping[str, int]
    refusals: int
    refused_since_at: datetime | None
    paused_until_at: datetime | None
    pause_reason: str | None

    def paused(self, now: datetime) -> bool:
        return self.paused_until_at is not None and self.paused_until_at > now

    @property
    def probes(self) -> bool:
        """Whether a pause has only ended because its time was over: the provider has accepted no task since."""
        return self.refusals > 0 and self.pause_reason in _PROBED


class Slot(NamedTuple):
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


def put(connection: Connection, account_id: str, provider: str, limits: Mapping[str, int]) -> None:
    """Insert an account, or update the limits of an existing one."""
    values = {"id": account_id, "provider": provider, "limits": dict(limits), "refusals": 0}
    statement = insert_into(accounts, connection.dialect.name).values(values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_={"limits": statement.excluded.limits})
    )


_GET = select(accounts).where(accounts.c.id == bindparam("account_id"))
_LOCK = _GET.with_for_update()
_SLOTS_TAKEN = select(slots.c.number, slots.c.task_id, slots.c.model).where(
    slots.c.account_id == bindparam("account_id")
)
_TAKE = slots.insert()


def get(connection: Connection, account_id: str) -> Account | None:
    row = connection.execute(_GET, {"account_id": account_id}).one_or_none()
    return None if row is None else Account(**row._asdict())


def all_ids(connection: Connection) -> list[str]:
    return list(connection.execute(select(accounts.c.id).order_by(accounts.c.id)).scalars())


def list_all(connection: Connection) -> list[Account]:
    return [Account(**row._asdict()) for row in connection.execute(select(accounts).order_by(accounts.c.id))]


def in_use(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of taken slots, by account id and model."""
    query = select(slots.c.account_id, slots.c.model, func.count()).group_by(slots.c.account_id, slots.c.model)
    return {(account_id, model): count for account_id, model, count in connection.execute(query)}


def paused(connection: Connection, now: datetime) -> list[Account]:
    """Return the accounts that are paused at `now`."""
    query = select(accounts).where(accounts.c.paused_until_at > now).order_by(accounts.c.id)
    return [Account(**row._asdict()) for row in connection.execute(query)]


def lock(connection: Connection, account_id: str) -> Account | None:
    """Return the account, locked until the transaction ends."""
    row = connection.execute(_LOCK, {"account_id": account_id}).one_or_none()
    return None if row is None else Account(**row._asdict())


def pause(connection: Connection, account_id: str, now: datetime, until: datetime, reason: str, refusals: int) -> None:
    """Pause an account: none of its slots are given out until `until`.

    `refusals` counts consecutive refusals for this reason; the time of the first one is kept.
    """
    at = literal(now, Instant)
    since = case((accounts.c.pause_reason == reason, func.coalesce(accounts.c.refused_since_at, at)), else_=at)
    connection.execute(
        update(accounts)
        .where(accounts.c.id == account_id)
        .values(refusals=refusals, refused_since_at=since, paused_until_at=until, pause_reason=reason)
    )


def resume(connection: Connection, account_id: str, now: datetime) -> bool:
    """Clear the refusals of an account, because the provider has accepted a task, unless a pause is still running.

    The next pause is then short again. Return whether there were refusals to clear.
    """
    resumed = connection.execute(
        update(accounts)
        .where(accounts.c.id == account_id, accounts.c.refusals > 0, accounts.c.paused_until_at <= now)
        .values(refusals=0, refused_since_at=None, paused_until_at=None, pause_reason=None)
    )
    return resumed.rowcount == 1


def end_pauses(connection: Connection, reason: str, now: datetime) -> list[str]:
    """End all pauses for this reason, so that a probe is sent at once. Return the ids of the accounts."""
    ended = (
        update(accounts)
        .where(accounts.c.pause_reason == reason, accounts.c.paused_until_at > now)
        .values(paused_until_at=now)
        .returning(accounts.c.id)
    )
    return sorted(connection.execute(ended).scalars())


def slots_taken(connection: Connection, account_id: str) -> list[Slot]:
    """Return the taken slots of an account, in no particular order."""
    return [Slot(**row._asdict()) for row in connection.execute(_SLOTS_TAKEN, {"account_id": account_id})]


def has_probe(connection: Connection, account: Account, after: datetime) -> bool:
    """Return whether a task has a slot that it was given since the account's last pause, and later than `after`."""
    since = account.paused_until_at or after
    query = select(slots.c.number).where(
        slots.c.account_id == account.id, slots.c.taken_at >= since, slots.c.taken_at > after
    )
    return connection.execute(query.limit(1)).one_or_none() is not None


def take(connection: Connection, slots: Sequence[TakenSlot]) -> None:
    """Take slots. The primary key rejects a slot that is already taken, as a safeguard beside the account's lock."""
    connection.execute(_TAKE, [slot._asdict() for slot in slots])


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
