"""Requests and responses of API keys."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.config_file import Region
from app.db.tables.api_keys import Key
from app.db.tables.applications import Application
from app.params import UtcInstant, Webhook
from app.web.schemas.tasks import WebhookView

Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
ScopeName = Literal["*", "submit", "read", "manage", "metrics", "admin"]
_DEFAULT: tuple[ScopeName, ...] = ("submit", "read", "manage")
Scopes = Annotated[
    list[ScopeName],
    Field(
        min_length=1,  # a stored key without scopes is one of an earlier version
        max_length=5,
        description="What the key may do. `admin`, or `*`, allows everything, in all applications. "
        "Default: `submit`, `read` and `manage`.",
    ),
]
_REGION = "The only region of provider accounts in which its tasks are processed: `global`, `eu` or `us`; null: any."


class NewKey(Webhook):
    """A new API key. Its webhook fields are the defaults for tasks that omit them."""

    name: Name
    scopes: Scopes = Field(default_factory=lambda: list(_DEFAULT))
    expires_at: Annotated[UtcInstant | None, Field(description="From then on the key is refused.")] = None
    region: Annotated[Region | None, Field(description=_REGION)] = None


class KeyChange(Webhook):
    """The fields to change. An omitted field is unchanged; null removes a webhook field or the region."""

    name: Name | None = None
    region: Annotated[Region | None, Field(description=_REGION)] = None


class KeyView(BaseModel):
    id: str
    application_id: str
    name: str
    prefix: Annotated[
        str | None, Field(description="The first characters of the key; null if the operator chose the key.")
    ]
    scopes: list[str]
    webhook: Annotated[WebhookView | None, Field(description="The default webhook of the key's tasks.")]
    region: Annotated[str | None, Field(description=_REGION)]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="To a minute.")]
    disabled_at: datetime | None


class MadeKey(KeyView):
    key: Annotated[str, Field(description="The API key itself. It is returned only in this response.")]


class KeyList(BaseModel):
    keys: list[KeyView]
    next_cursor: Annotated[
        str | None, Field(description="Pass it as `cursor` to get the next page; null on the last page.")
    ]


def key_view(key: Key) -> KeyView:
    names = set(KeyView.model_fields) - {"webhook"}
    return KeyView(**{name: getattr(key, name) for name in names}, webhook=default_webhook(key))


def default_webhook(owner: Key | Application) -> WebhookView | None:
    """Return the default webhook that this key or application has itself, without its secret."""
    if owner.webhook_url is None:
        return None
    form, events = owner.webhook_form or "provider", list(owner.webhook_events or ())
    return WebhookView(url=owner.webhook_url, form=form, events=events)
