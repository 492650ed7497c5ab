"""The table `keys`: the API keys, found by their SHA-256. The keys themselves are not stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from typing import Final

from sqlalchemy import Column, Connection, String, Table, Text, bindparam, select, update

from app.db.engine.columns import Instant, Json, by_key, insert_into, metadata

ADMIN_ID = "key_admin"  # the id of the operator's own key

keys = Table(
    "keys",
    metadata,
    Column("id", String(48), primary_key=True),
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
)


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    name: str
    sha256: str
    scopes: Sequence[str]
    created_at: datetime
    disabled_at: datetime | None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_form: str | None = None
    webhook_events: Sequence[str] | None = None


class Unchanged(Enum):
    """The type of `UNCHANGED`, the value that leaves a column as it is. None clears the column."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class WebhookDefaults:
    """The webhook settings of an API key to be written."""

    url: str | Unchanged | None = UNCHANGED
    secret: str | Unchanged | None = field(default=UNCHANGED, repr=False)  # sealed
    form: str | Unchanged | None = UNCHANGED
    events: Sequence[str] | Unchanged | None = UNCHANGED

    def columns(self) -> dict[str, str | Sequence[str] | None]:
        """Return the values to write, by column."""
        values = {f"webhook_{member.name}": getattr(self, member.name) for member in fields(self)}
        return {name: value for name, value in values.items() if value is not UNCHANGED}


_NO_WEBHOOK_CHANGE = WebhookDefaults()


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """An API key to be inserted, or to replace the key with the same id."""

    id: str
    name: str
    sha256: str
    scopes: Sequence[str]
    created_at: datetime
    webhook: WebhookDefaults = _NO_WEBHOOK_CHANGE


@dataclass(frozen=True, slots=True)
class ApiKeyChange:
    """New values for an API key; a name that is None stays."""

    name: str | None = None
    webhook: WebhookDefaults = _NO_WEBHOOK_CHANGE


def put(connection: Connection, key: NewApiKey) -> None:
    """Insert a key, or overwrite the key with the same id. The key is enabled."""
    row = {
        "id": key.id,
        "name": key.name,
        "sha256": key.sha256,
        "scopes": list(key.scopes),
        "created_at": key.created_at,
        "disabled_at": None,
        **key.webhook.columns(),
    }
    # One statement, because replicas that start at the same time all write the operator's key.
    statement = insert_into(keys, connection.dialect.name).values(row)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))


def change(connection: Connection, key_id: str, values: ApiKeyChange) -> None:
    columns = values.webhook.columns() | ({} if values.name is None else {"name": values.name})
    if columns:
        connection.execute(update(keys).where(keys.c.id == key_id).values(columns))


def disable(connection: Connection, key_id: str, now: datetime) -> None:
    """Disable a key. A key that is already disabled keeps its first `disabled_at`."""
    connection.execute(update(keys).where(keys.c.id == key_id, keys.c.disabled_at.is_(None)).values(disabled_at=now))


def list_all(connection: Connection) -> list[Key]:
    """Return all keys, newest first."""
    query = select(keys).order_by(keys.c.created_at.desc(), keys.c.id.desc())
    return [Key(**by_key(keys, row)) for row in connection.execute(query)]


_BY_DIGEST = select(keys).where(keys.c.sha256 == bindparam("digest"))
_GET = select(keys).where(keys.c.id == bindparam("key_id"))


def by_digest(connection: Connection, sha256: str) -> Key | None:
    row = connection.execute(_BY_DIGEST, {"digest": sha256}).one_or_none()
    return None if row is None else Key(**by_key(keys, row))


def get(connection: Connection, key_id: str) -> Key | None:
    row = connection.execute(_GET, {"key_id": key_id}).one_or_none()
    return None if row is None else Key(**by_key(keys, row))
