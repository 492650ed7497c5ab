"""The table `applications`: who owns tasks, images, webhooks and usage, and to which application a row belongs.

A row written by a version without applications names only its API key. Its application follows from the key's id:
`key_X` belongs to `app_X`. So such rows are never rewritten, however many they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    String,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    update,
)

from app.db.engine.columns import Instant, Json, by_key, insert_into, metadata
from app.db.tables.webhook_defaults import NO_CHANGE, UNCHANGED, Unchanged, WebhookDefaults
from app.rules.budget import Budget

ADMIN_ID = "app_admin"  # the application of the operator's own key
_APP, _KEY = "app", "key"  # the prefixes of ids

applications = Table(
    "applications",
    metadata,
    Column("id", String(48), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("disabled_at", Instant),
    # The webhook settings of its tasks, unless the key or the task has its own.
    Column("webhook_url", Text),
    Column("webhook_secret", Text),  # sealed
    Column("webhook_form", String(16)),
    Column("webhook_events", Json),
    Column("limits", Json),
    Column("budget", Json),
    Column("retention_days", Json),
    Column("join_retries", Boolean),  # whether its retries join; NULL: yes
)


@dataclass(frozen=True, slots=True)
class Application:
    id: str
    name: str
    created_at: datetime
    disabled_at: datetime | None = None
    webhook_url: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    webhook_form: str | None = None
    webhook_events: Sequence[str] | None = None
    limits: Mapping[str, int] | None = None
    budget: Budget | None = None
    retention_days: Mapping[str, int] | None = None
    join_retries: bool | None = None

    @property
    def joins_retries(self) -> bool:
        """Whether a retry of this application joins the tasks of the request that it repeats."""
        return self.join_retries is not False


@dataclass(frozen=True, slots=True)
class ApplicationChange:
    """New values for an application. `UNCHANGED` leaves a column as it is; None clears it."""

    name: str | Unchanged = UNCHANGED
    budget: Budget | Unchanged | None = UNCHANGED
    limits: Mapping[str, object] | Unchanged | None = UNCHANGED
    retention_days: Mapping[str, object] | Unchanged | None = UNCHANGED
    join_retries: bool | Unchanged | None = UNCHANGED
    webhook: WebhookDefaults = NO_CHANGE

    def columns(self) -> dict[str, object]:
        """Return the values to write, by column."""
        values = {member.name: getattr(self, member.name) for member in fields(self) if member.name != "webhook"}
        values |= self.webhook.columns()
        if isinstance(self.budget, Budget):
            values["budget"] = self.budget.as_json()
        return {name: value for name, value in values.items() if value is not UNCHANGED}


@dataclass(frozen=True, slots=True)
class NewApplication:
    """An application to be inserted. Its `values` must have a name."""

    id: str
    created_at: datetime
    values: ApplicationChange


_GET = select(applications).where(applications.c.id == bindparam("application_id"))

_LOCK = select(applications.c.id).where(applications.c.id == bindparam("application_id")).with_for_update()


def id_of_key(key_id: str) -> str:
    """Return the application of a key, or of a row, that names none: `app_X` for `key_X`."""
    return f"{_APP}{key_id[len(_KEY) :]}"


def first_key_id(application_id: str) -> str:
    """Return the id that names an application in tables which had only keys: `key_X` for `app_X`.

    It is the id of the application's first key, if it was made with one, and stays when that key is replaced.
    """
    return f"{_KEY}{application_id[len(_APP) :]}"


def of(table: FromClause) -> ColumnElement[str]:
    """Return the expression for the application of a row, for a table with `application_id` and `key_id` or its alias.

    The indexes contain the same expression. Its constants are literals, because the planner does not match a bound
    parameter with an index.
    """
    derived = literal_column(f"'{_APP}'", String) + func.substr(table.c.key_id, literal_column(str(len(_KEY) + 1)))
    return func.coalesce(table.c.application_id, derived)


def of_key(table: FromClause) -> ColumnElement[str]:
    """Return the expression for the application of a row of `keys`, or of its alias."""
    derived = literal_column(f"'{_APP}'", String) + func.substr(table.c.id, literal_column(str(len(_KEY) + 1)))
    return func.coalesce(table.c.application_id, derived)


def ensure(connection: Connection, application_id: str, name: str, now: datetime) -> None:
    """Insert an application with this id if there is none."""
    row = {"id": application_id, "name": name, "created_at": now}
    statement = insert_into(applications, connection.dialect.name).values(row)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["id"]))


def lock(connection: Connection, application_id: str) -> None:
    """Lock an application until the transaction ends."""
    connection.execute(_LOCK, {"application_id": application_id})


def get(connection: Connection, application_id: str) -> Application | None:
    row = connection.execute(_GET, {"application_id": application_id}).one_or_none()
    return None if row is None else _application_of(row)


def insert(connection: Connection, application: NewApplication) -> bool:
    """Insert an application. Return False if there is one with this id, which stays as it is."""
    row = {"id": application.id, "created_at": application.created_at, **application.values.columns()}
    statement = insert_into(applications, connection.dialect.name).values(row)
    return connection.execute(statement.on_conflict_do_nothing(index_elements=["id"])).rowcount == 1


def change(connection: Connection, application_id: str, values: ApplicationChange) -> None:
    if columns := values.columns():
        connection.execute(update(applications).where(applications.c.id == application_id).values(columns))


def disable(connection: Connection, application_id: str, now: datetime) -> None:
    """Disable an application: its keys are refused. One that is already disabled keeps its first `disabled_at`."""
    enabled = (applications.c.id == application_id, applications.c.disabled_at.is_(None))
    connection.execute(update(applications).where(*enabled).values(disabled_at=now))


def newest(connection: Connection, limit: int, before: str | None = None) -> list[Application]:
    """Return applications with ids lower than `before`, in descending order of their ids, which is that of creation.

    The operator's own application comes first.
    """
    query = select(applications).order_by(applications.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(applications.c.id < before)
    return [_application_of(row) for row in connection.execute(query)]


def enable(connection: Connection, application_id: str) -> None:
    """Enable an application again: those of its keys that are valid themselves open it."""
    connection.execute(update(applications).where(applications.c.id == application_id).values(disabled_at=None))


def _application_of(row: Row[Any]) -> Application:
    values = by_key(applications, row)
    return Application(**{**values, "budget": values["budget"] and Budget.of_json(values["budget"])})
