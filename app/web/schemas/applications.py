"""Requests and responses of applications."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.db.tables.applications import Application, ApplicationChange
from app.db.tables.webhook_defaults import UNCHANGED
from app.params import Webhook
from app.rules.budget import Budget, Period
from app.security.keyring import KeyRing
from app.web.schemas.keys import Name, default_webhook
from app.web.schemas.tasks import WebhookView
from app.webhooks import subscription

Count = Annotated[int, Field(ge=0, le=1_000_000)]
Days = Annotated[int, Field(ge=0, le=36_500)]


def _only_false(value: object) -> object:
    """Refuse 0, which is equal to false."""
    if value is not False:
        raise ValueError("must be false")
    return value


class BudgetBody(BaseModel):
    """The credits that the application may spend in each day or month, in UTC."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    credits: Annotated[float, Field(ge=0, le=1_000_000_000, allow_inf_nan=False)]
    period: Literal["day", "month"]


class LimitsBody(BaseModel):
    """What the application may use at once. Null: no limit. An omitted member has its default."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    in_flight: Count | None = None
    queued: Count | None = None
    posts_per_minute: Count | None = None
    uploads: Count | None = None
    streams: Count | None = None
    deliveries: Count | None = None
    tests_per_minute: Count | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0


class RetentionBody(BaseModel):
    """Days after a task's end for which each class of its data is kept. 0: without limit.

    Null or omitted: as in the operator's settings.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    images: Days | None = None
    inputs: Days | None = None
    evidence: Days | None = None
    tasks: Days | None = None


class ApplicationBody(Webhook):
    """An application. Its webhook fields are the defaults for tasks that omit them, unless their key has its own."""

    name: Name | None = None
    budget: BudgetBody | None = None
    limits: LimitsBody | None = None
    retention_days: RetentionBody | None = None
    join_retries: Annotated[
        bool | None,
        Field(strict=True, description="Whether a retry joins the tasks of the request that it repeats. Null: true."),
    ] = None

    def change(self, ring: KeyRing, application_id: str) -> ApplicationChange:
        """Return what to write."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        parts = {
            name: value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            for name, value in given.items()
        }
        budget = None if self.budget is None else Budget(self.budget.credits, Period(self.budget.period))
        return ApplicationChange(
            name=self.name or UNCHANGED,
            budget=budget if "budget" in given else UNCHANGED,
            limits=parts.get("limits", UNCHANGED),
            retention_days=parts.get("retention_days", UNCHANGED),
            join_retries=self.join_retries if "join_retries" in given else UNCHANGED,
            webhook=subscription.defaults(ring, application_id, self),
        )


class ApplicationChangeBody(ApplicationBody):
    """The fields to change. An omitted field is unchanged; null clears one. A field is replaced as a whole."""

    disabled: Annotated[
        Literal[False],
        BeforeValidator(_only_false),
        Field(description="`false` enables a disabled application again; `DELETE` disables one."),
    ] = False

    @property
    def enables(self) -> bool:
        return "disabled" in self.model_fields_set


class NewApplicationBody(ApplicationBody):
    """A new application."""

    name: Name


class ApplicationView(BaseModel):
    id: str
    name: str
    budget: dict[str, Any] | None
    limits: Annotated[dict[str, int | None] | None, Field(description="Those that differ from the defaults.")]
    retention_days: dict[str, int | None] | None
    join_retries: Annotated[bool, Field(description="Whether a retry joins the tasks of the request that it repeats.")]
    webhook: Annotated[
        WebhookView | None, Field(description="The default webhook of its tasks, unless their key has its own.")
    ]
    created_at: datetime
    disabled_at: datetime | None


class ApplicationList(BaseModel):
    applications: list[ApplicationView]
    next_cursor: Annotated[
        str | None, Field(description="Pass it as `cursor` to get the next page; null on the last page.")
    ]


def application_view(application: Application) -> ApplicationView:
    members = {name: getattr(application, name) for name in set(ApplicationView.model_fields) - {"webhook"}}
    budget = application.budget and application.budget.as_json()
    webhook = default_webhook(application)
    return ApplicationView(
        **{**members, "budget": budget, "join_retries": application.joins_retries, "webhook": webhook}
    )
