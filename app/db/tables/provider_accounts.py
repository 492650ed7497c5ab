"""The table `accounts`: the limits of provider accounts for tasks in flight, and their pauses.

A taken slot is a row of `slots`. Slots are given out under the lock of the rows of all accounts, so two processes never
give out the same slot, and each sees the slots that the other has just freed. The rows are locked in the order of their
ids, and before any of them is changed, so that two transactions never wait for each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    Row,
    String,
    Table,
    Text,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    update,
)

from app.db.engine.columns import Instant, Json, insert_into, metadata
from app.rules.slots import Lowered, allowed, next_rise

# Reasons for a pause, shown to users and used as labels of a metric.
OUT_OF_CREDITS = "out of credits"
NO_FREE_SLOT = "the provider has no free slot"
KEY_REFUSED = "the provider refuses the API key"
BLOCKED = "a gateway in front of the provider refuses requests"
REASONS = (NO_FREE_SLOT, OUT_OF_CREDITS, KEY_REFUSED, BLOCKED)
# After a pause for one of these reasons, one task is sent as a probe. The others wait until it is accepted.
_PROBED = frozenset({OUT_OF_CREDITS, KEY_REFUSED, BLOCKED})


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
    # What each process records at its start. NULL: not configured, so the account gets no tasks.
    Column("position", Integer),
    Column("region", String(16)),
    Column("models", Json),  # the only ones that it serves; NULL: all
    # The limit to which a refusal lowered that for all models (see `rules.slots`).
    Column("lowered_to", Integer),
    Column("lowered_at", Instant),
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
    position: int | None = None  # None: not configured
    region: str | None = None
    models: Sequence[str] | None = None
    lowered: Lowered | None = None

    @property
    def name(self) -> str:
        """The name in the configuration file, or the id of the account of the environment."""
        return self.id.removeprefix("acct:")

    @property
    def named_models(self) -> set[str]:
        """The models that it treats in a way of their own."""
        return {*(self.limits.keys() - {IN_ALL}), *(self.models or ())}

    def serves(self, model: str) -> bool:
        return self.models is None or model in self.models

    def may_take(self, model: str, region: str | None) -> bool:
        """Whether tasks of this model that are limited to this region, if any, may run here."""
        return self.serves(model) and region in {None, self.region}

    def allowed(self, now: datetime) -> int:
        """Return how many tasks may be in flight now, of all models together."""
        return allowed(self.limits[IN_ALL], self.lowered, now)

    def next_rise(self, now: datetime) -> datetime | None:
        """Return when a limit that was lowered rises again by one; None if it is not lowered."""
        return next_rise(self.limits[IN_ALL], self.lowered, now)

    def paused(self, now: datetime) -> bool:
        return self.paused_until_at is not None and self.paused_until_at > now

    @property
    def probes(self) -> bool:
        """Whether a pause has only ended because its time was over: the provider has accepted no task since."""
        return self.refusals > 0 and self.pause_reason in _PROBED


@dataclass(frozen=True, slots=True)
class ConfiguredAccount:
    """An account as it is configured. `models`: the only ones that it serves; None: all."""

    id: str
    provider: str
    limits: Mapping[str, int]
    region: str | None = None
    models: Sequence[str] | None = None


def configure(connection: Connection, configured: Sequence[ConfiguredAccount]) -> None:
    """Record the configured accounts, in order; the others get no more tasks. Pauses and slots stay."""
    lock_all(connection)
    for position, account in enumerate(configured):
        put(connection, account, position)
    others = accounts.c.id.not_in([account.id for account in configured])
    connection.execute(update(accounts).where(others).values(position=None))


def put(connection: Connection, account: ConfiguredAccount, position: int = 0) -> None:
    """Insert an account, or update what is configured for an existing one."""
    values = {**asdict(account), "limits": dict(account.limits), "position": position}
    statement = insert_into(accounts, connection.dialect.name).values({**values, "refusals": 0})
    configured = {name: statement.excluded[name] for name in ("limits", "position", "region", "models")}
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=configured))


_GET = select(accounts).where(accounts.c.id == bindparam("account_id"))
_CONFIGURED = accounts.c.position.is_not(None)
_IN_LOCK_ORDER = select(accounts).order_by(accounts.c.id).with_for_update()
_LIST_CONFIGURED = select(accounts).where(_CONFIGURED).order_by(accounts.c.position, accounts.c.id)
_LOCK = _IN_LOCK_ORDER.where(_CONFIGURED)
_LOCK_WITH = _IN_LOCK_ORDER.where(or_(_CONFIGURED, accounts.c.id == bindparam("account_id")))


def get(connection: Connection, account_id: str) -> Account | None:
    row = connection.execute(_GET, {"account_id": account_id}).one_or_none()
    return None if row is None else _account_of(row)


def list_all(connection: Connection) -> list[Account]:
    return [_account_of(row) for row in connection.execute(select(accounts).order_by(accounts.c.id))]


def list_configured(connection: Connection) -> list[Account]:
    """Return the configured accounts, in order."""
    return [_account_of(row) for row in connection.execute(_LIST_CONFIGURED)]


def _account_of(row: Row[Any]) -> Account:
    values = row._asdict()
    to, at = values.pop("lowered_to"), values.pop("lowered_at")
    return Account(**values, lowered=None if to is None else Lowered(to, at))


def paused(connection: Connection, now: datetime) -> list[Account]:
    """Return the accounts that are paused at `now`."""
    query = select(accounts).where(accounts.c.paused_until_at > now).order_by(accounts.c.id)
    return [_account_of(row) for row in connection.execute(query)]


def lock_configured(connection: Connection) -> list[Account]:
    """Return the configured accounts, in order, locked until the transaction ends."""
    found = [_account_of(row) for row in connection.execute(_LOCK)]
    return sorted(found, key=lambda account: account.position or 0)


def lock(connection: Connection, account_id: str) -> Account | None:
    """Return an account, locked until the transaction ends, and lock the configured ones with it."""
    found = [_account_of(row) for row in connection.execute(_LOCK_WITH, {"account_id": account_id})]
    return next((account for account in found if account.id == account_id), None)


def lock_all(connection: Connection) -> None:
    """Lock all accounts until the transaction ends."""
    connection.execute(_IN_LOCK_ORDER)


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


def lower(connection: Connection, account_id: str, lowered: Lowered) -> None:
    """Lower the limit of tasks in flight for a while."""
    values = {"lowered_to": lowered.to, "lowered_at": lowered.at}
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(values))


_REFUSED = (
    accounts.c.id == bindparam("account_id"),
    accounts.c.refusals > 0,
    accounts.c.paused_until_at <= bindparam("now"),
)
_IS_REFUSED = select(accounts.c.id).where(*_REFUSED)
_RESUME = (
    update(accounts).where(*_REFUSED).values(refusals=0, refused_since_at=None, paused_until_at=None, pause_reason=None)
)


def resume(connection: Connection, account_id: str, now: datetime) -> bool:
    """Clear the refusals of an account, because the provider has accepted a task, unless a pause is still running.

    The next pause is then short again. Return whether there were refusals to clear.
    """
    refused = {"account_id": account_id, "now": now}
    if connection.execute(_IS_REFUSED, refused).one_or_none() is None:
        return False  # as nearly always: the rows need no lock
    lock(connection, account_id)
    resumed = connection.execute(_RESUME, refused)
    return resumed.rowcount == 1


def end_pauses(connection: Connection, reason: str, now: datetime) -> list[str]:
    """End all pauses for this reason, so that a probe is sent at once. Return the ids of the accounts."""
    lock_all(connection)
    ended = (
        update(accounts)
        .where(accounts.c.pause_reason == reason, accounts.c.paused_until_at > now)
        .values(paused_until_at=now)
        .returning(accounts.c.id)
    )
    return sorted(connection.execute(ended).scalars())
