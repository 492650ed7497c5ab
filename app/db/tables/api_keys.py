"""The table `keys`: the API keys, found by their SHA-256. The keys themselves are not stored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Row,
    String,
    Table,
    Text,
    bindparam,
    func,
    literal,
    select,
    update,
)

from app.db.engine.columns import Instant, Json, by_key, insert_into, metadata
from app.db.tables import applications
from app.db.tables.applications import applications as apps
from app.db.tables.webhook_defaults import NO_CHANGE, UNCHANGED, EffectiveDefaults, Unchanged, WebhookDefaults

ADMIN_ID = "key_admin"  # the id of the operator's own key

keys = Table(
    "keys",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("application_id", String(48)),  # NULL in rows of earlier versions, see `applications.id_of_key`
    Column("name", Text, nullable=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("disabled_at", Instant),
    # The webhook settings of its tasks, unless a task brings its own.
    Column("notify_url", Text, key="webhook_url"),
    Column("notify_secret", Text, key="webhook_secret"),  # sealed
    Column("notify_form", String(16), key="webhook_form"),
    Column("notify_events", Json, key="webhook_events"),
    Column("prefix", String(16)),  # the beginning of the key, to recognise it; NULL if the operator chose the key
    Column("expires_at", Instant),
    Column("last_used_at", Instant),  # to a minute
    Column("stop_queued", Boolean),  # its queued tasks are to be cancelled, because it was revoked
    Column("links_ended_at", Instant),  # the links to images that it made are not valid any more
    Column("region", String(16)),  # the only region of accounts that its tasks may run in; NULL: any
)


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    application_id: str
    name: str
    sha256: str
    scopes: Sequence[str]
    created_at: datetime
    disabled_at: datetime | None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_form: str | None = None
    webhook_events: Sequence[str] | None = None
    prefix: str | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    stop_queued: bool | None = None
    links_ended_at: datetime | None = None
    region: str | None = None
    application_disabled_at: datetime | None = None
    application_join_retries: bool | None = None
    application_webhook_url: str | None = None
    application_webhook_secret: str | None = field(default=None, repr=False)
    application_webhook_form: str | None = None
    application_webhook_events: Sequence[str] | None = None

    @property
    def webhook(self) -> EffectiveDefaults:
        """The webhook settings for tasks that omit them."""
        is_own = self.webhook_secret is not None
        return EffectiveDefaults(
            url=self.webhook_url or self.application_webhook_url,
            form=self.webhook_form or self.application_webhook_form,
            events=self.application_webhook_events if self.webhook_events is None else self.webhook_events,
            secret=self.webhook_secret if is_own else self.application_webhook_secret,
            secret_owner=self.id if is_own else self.application_id,
        )

    def is_valid(self, now: datetime) -> bool:
        """Whether the key opens its application: neither is disabled, and the key has not expired."""
        enabled = self.disabled_at is None and self.application_disabled_at is None
        return enabled and (self.expires_at is None or now < self.expires_at)


_MEMBERS = frozenset(member.name for member in fields(Key))


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """An API key to be inserted, or to replace the key with the same id.

    Without `application_id`, it is the first key of an application with its name.
    """

    id: str
    name: str
    sha256: str
    scopes: Sequence[str]
    created_at: datetime
    webhook: WebhookDefaults = NO_CHANGE
    application_id: str | None = None
    prefix: str | None = None
    expires_at: datetime | None = None
    region: str | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyChange:
    """New values for an API key; a name that is None stays."""

    name: str | None = None
    webhook: WebhookDefaults = NO_CHANGE
    region: str | Unchanged | None = UNCHANGED


def put(connection: Connection, key: NewApiKey) -> None:
    """Insert a key, or overwrite the key with the same id. The key is enabled."""
    row = _new_row(connection, key)
    # One statement, because replicas that start at the same time all write the operator's key.
    statement = insert_into(keys, connection.dialect.name).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))


def insert(connection: Connection, key: NewApiKey) -> bool:
    """Insert a key. Return False if there is one with this id, which stays as it is."""
    statement = insert_into(keys, connection.dialect.name).values(_new_row(connection, key))
    return connection.execute(statement.on_conflict_do_nothing(index_elements=["id"])).rowcount == 1


def _new_row(connection: Connection, key: NewApiKey) -> dict[str, object]:
    """Return the row of a new key. An application that it is the first key of is inserted."""
    application_id = key.application_id or applications.id_of_key(key.id)
    if key.application_id is None:
        applications.ensure(connection, application_id, key.name, key.created_at)
    return {
        "id": key.id,
        "application_id": application_id,
        "name": key.name,
        "sha256": key.sha256,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "disabled_at": None,
        "prefix": key.prefix,
        "expires_at": key.expires_at,
        "region": key.region,
        **key.webhook.columns(),
    }


def change(connection: Connection, key_id: str, values: ApiKeyChange) -> None:
    columns = values.webhook.columns() | ({} if values.name is None else {"name": values.name})
    if values.region is not UNCHANGED:
        columns["region"] = values.region
    if columns:
        connection.execute(update(keys).where(keys.c.id == key_id).values(columns))


def disable(
    connection: Connection, key_id: str, now: datetime, *, stop_queued: bool = False, end_links: bool = False
) -> None:
    """Disable a key. A key that is already disabled keeps its first `disabled_at`.

    `stop_queued`: the sweep cancels its queued tasks. `end_links`: the links to images that it made are refused.
    """
    values: dict[str, Any] = {"disabled_at": func.coalesce(keys.c.disabled_at, literal(now, Instant))}
    if stop_queued:
        values["stop_queued"] = True
    if end_links:
        values["links_ended_at"] = func.coalesce(keys.c.links_ended_at, literal(now, Instant))
    connection.execute(update(keys).where(keys.c.id == key_id).values(values))


def disable_all(
    connection: Connection, application_id: str, now: datetime, *, stop_queued: bool, end_links: bool
) -> None:
    """Do for the keys of an application that was disabled what `disable` does. They stay enabled themselves."""
    of_application = applications.of_key(keys) == application_id
    if stop_queued:
        connection.execute(update(keys).where(of_application).values(stop_queued=True))
    if end_links:
        ended = func.coalesce(keys.c.links_ended_at, literal(now, Instant))
        connection.execute(update(keys).where(of_application).values(links_ended_at=ended))


def go_on(connection: Connection, application_id: str) -> None:
    """Let the queued tasks of an application's keys go on, except those of keys that are disabled themselves."""
    enabled = (applications.of_key(keys) == application_id, keys.c.disabled_at.is_(None))
    connection.execute(update(keys).where(*enabled).values(stop_queued=False))


def stopping(connection: Connection) -> dict[str, datetime]:
    """Return the keys whose queued tasks are to be cancelled, with the time at which each stopped to be valid."""
    disabled_at = func.coalesce(keys.c.disabled_at, apps.c.disabled_at)
    query = (
        select(keys.c.id, disabled_at.label("disabled_at"))
        .select_from(keys.outerjoin(apps, apps.c.id == applications.of_key(keys)))
        .where(keys.c.stop_queued.is_(True), disabled_at.is_not(None))
    )
    return {row.id: row.disabled_at for row in connection.execute(query)}


def stopped(connection: Connection, key_ids: Collection[str]) -> None:
    """Record that the queued tasks of these keys are cancelled."""
    connection.execute(update(keys).where(keys.c.id.in_(key_ids)).values(stop_queued=False))


def touch(connection: Connection, key_ids: Collection[str], now: datetime) -> None:
    """Record the use of these keys."""
    connection.execute(update(keys).where(keys.c.id.in_(key_ids)).values(last_used_at=now))


def valid_among(connection: Connection, key_ids: Collection[str], now: datetime) -> set[str]:
    """Return those of these keys that open their application."""
    rows = connection.execute(_SELECT.where(keys.c.id.in_(key_ids)))
    return {key.id for key in map(key_of, rows) if key.is_valid(now)}


def newest(connection: Connection, limit: int, before: str | None = None, owner: str | None = None) -> list[Key]:
    """Return keys with ids lower than `before`, in descending order of their ids, which is that of creation.

    The operator's own key comes first. With `owner`: only keys of this application.
    """
    query = _SELECT.order_by(keys.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(keys.c.id < before)
    if owner is not None:
        query = query.where(applications.of_key(keys) == owner)
    return [key_of(row) for row in connection.execute(query)]


# What `Key` has of its application.
OF_APPLICATION = [
    apps.c[name].label(f"application_{name}")
    for name in ("disabled_at", "join_retries", "webhook_url", "webhook_secret", "webhook_form", "webhook_events")
]
_SELECT = select(keys, *OF_APPLICATION).select_from(keys.outerjoin(apps, apps.c.id == applications.of_key(keys)))
_BY_DIGEST = _SELECT.where(keys.c.sha256 == bindparam("digest"))
_GET = _SELECT.where(keys.c.id == bindparam("key_id"))


def by_digest(connection: Connection, sha256: str) -> Key | None:
    row = connection.execute(_BY_DIGEST, {"digest": sha256}).one_or_none()
    return None if row is None else key_of(row)


def get(connection: Connection, key_id: str) -> Key | None:
    row = connection.execute(_GET, {"key_id": key_id}).one_or_none()
    return None if row is None else key_of(row)


def key_of(row: Row[Any]) -> Key:
    """Return the key of a row, which may have further columns."""
    values = {name: value for name, value in by_key(keys, row).items() if name in _MEMBERS}
    return Key(**{**values, "application_id": values["application_id"] or applications.id_of_key(row.id)})
