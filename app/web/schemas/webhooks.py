"""The outgoing webhooks in `/openapi.json`, in both forms. This module serves no route."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from app.catalog import DEFAULT_MODEL
from app.rules.task import Failure, MoneySpent

webhooks = APIRouter(tags=["webhooks"])
callbacks = APIRouter(tags=["webhooks"])

_ID = "task_06e5qk0p3c8g0a9v2n4r6t8w1y3e5g7i9k1m3"
_LINK = f"https://fluxhook.example.com/results/{_ID}.png?expires=1767873600&signature=3q2-7w"


class WarnedBudget(BaseModel):
    credits: float
    period: Literal["day", "month"]


class BudgetFacts(BaseModel):
    """A budget of which 80 % are reserved or spent. Sent once in each period, to the application's default webhook."""

    budget: WarnedBudget
    spent: Annotated[float, Field(description="In credits, with what open tasks may cost.")]
    remaining: float
    resets_at: datetime


class ProviderResult(BaseModel):
    sample: Annotated[
        str | None, Field(description="Signed link to the stored image. It requires no API key and expires.")
    ]
    prompt: str
    seed: int | None


class ProviderForm(BaseModel):
    """The form of the provider's own webhooks, for existing handlers."""

    id: Annotated[str, Field(description="The id of the task; in a test or a `budget.warning`, that of the delivery.")]
    status: Literal["Pending", "Ready", "Error"]
    result: Annotated[ProviderResult | None, Field(description="Present if the image of the task is stored.")] = None
    error: Annotated[
        str | None,
        Field(description="Error code: the provider's code, or `cancelled`, for which the provider has none."),
    ] = None
    message: str | None = None
    timestamp: datetime
    type: Annotated[
        Literal["budget.warning"] | None,
        Field(description="Present, like `data`, in a warning about the budget alone."),
    ] = None
    data: BudgetFacts | None = None


class EventFailure(BaseModel):
    code: Failure
    detail: str | None
    money_spent: MoneySpent | None


class EventImage(BaseModel):
    url: Annotated[
        str | None, Field(description="Signed link to the stored image. It requires no API key and expires.")
    ]
    sha256: str
    media_type: str
    bytes: int
    width: Annotated[int | None, Field(description="In pixels; null if it could not be read, also the height.")]
    height: int | None
    unverified_image: Annotated[
        str | None, Field(description="Why the image could not be verified; null for one that was decoded completely.")
    ] = None


class EventTask(BaseModel):
    id: str
    status: Literal["submitted", "stored", "failed", "cancelled"]
    model: str
    user: Annotated[str | None, Field(description="The end user of the task; null without one.")] = None
    metadata: Annotated[dict[str, str], Field(description="The metadata of the task.")] = {}
    prompt: str
    seed: int | None
    cost: float | None
    failure: EventFailure | None = None
    image: EventImage | None
    created_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None


class WebhookData(BaseModel):
    task: Annotated[EventTask | None, Field(description="Omitted in a test.")] = None


class EventForm(BaseModel):
    """The type and time of the event, and the task, in the form that Standard Webhooks recommends."""

    type: Literal["task.submitted", "task.stored", "task.failed", "task.cancelled", "test", "budget.warning"]
    timestamp: datetime
    data: Annotated[BudgetFacts | WebhookData, Field(description="`BudgetFacts` in a `budget.warning`.")]


EXAMPLES: dict[str, dict[str, Any]] = {
    "stored, provider form": {
        "id": _ID,
        "status": "Ready",
        "result": {"sample": _LINK, "prompt": "a red fox", "seed": 7},
        "timestamp": "2026-01-01T12:00:06.000Z",
    },
    "failed, provider form": {
        "id": _ID,
        "status": "Error",
        "error": "content_policy_violation",
        "message": "Content Moderated",
        "timestamp": "2026-01-01T12:00:06.000Z",
    },
    "stored, event form": {
        "type": "task.stored",
        "timestamp": "2026-01-01T12:00:06.000Z",
        "data": {
            "task": {
                "id": _ID,
                "status": "stored",
                "model": DEFAULT_MODEL,
                "user": "customer-17",
                "metadata": {"order": "2026-0042"},
                "prompt": "a red fox",
                "seed": 7,
                "cost": 4,
                "image": {
                    "url": _LINK,
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                    "media_type": "image/png",
                    "bytes": 1300000,
                    "width": 1024,
                    "height": 1024,
                    "unverified_image": None,
                },
                "created_at": "2026-01-01T12:00:00.000Z",
                "submitted_at": "2026-01-01T12:00:01.000Z",
                "ended_at": "2026-01-01T12:00:06.000Z",
            }
        },
    },
}
_BUDGET = {
    "budget": {"credits": 40, "period": "day"},
    "spent": 32,
    "remaining": 8,
    "resets_at": "2026-01-02T00:00:00.000Z",
}
EXAMPLES["budget warning, event form"] = {
    "type": "budget.warning",
    "timestamp": "2026-01-01T12:00:06.000Z",
    "data": _BUDGET,
}
EXAMPLES["budget warning, provider form"] = {
    "id": "dlv_0000000000000000000000000000000000000",
    "status": "Pending",
    "timestamp": "2026-01-01T12:00:06.000Z",
    "type": "budget.warning",
    "data": _BUDGET,
}
_CONTENT = {"application/json": {"examples": {name: {"value": value} for name, value in EXAMPLES.items()}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {"description": "Delivered: any 2xx within 15 seconds."},
    HTTPStatus.GONE: {"description": "No more webhooks are sent to this address."},
}

WebhookId = Annotated[
    str, Header(alias="webhook-id", description="The same in every attempt: use it to detect duplicates.")
]
WebhookTimestamp = Annotated[
    str, Header(alias="webhook-timestamp", description="Time of this attempt, in epoch seconds.")
]
WebhookSignature = Annotated[
    str, Header(alias="webhook-signature", description="Standard Webhooks signature: `v1,` and base64.")
]
BflSignature = Annotated[
    str | None,
    Header(alias="x-bfl-signature", description="`sha256=` and hex; sent if the task or the key has a secret."),
]
WebhookSecret = Annotated[
    str | None,
    Header(
        alias="x-webhook-secret",
        description="The secret of the task or the key; sent to https addresses in the provider's form.",
    ),
]


@webhooks.post(
    "task", responses=_ANSWERS, response_class=Response, openapi_extra={"requestBody": {"content": _CONTENT}}
)
@callbacks.post(
    "{$request.body#/webhook_url}",
    responses=_ANSWERS,
    response_class=Response,
    openapi_extra={"requestBody": {"content": _CONTENT}},
    name="told_of_task",
    summary="Task Webhook",
)
async def task_webhook(
    body: ProviderForm | EventForm,
    webhook_id: WebhookId,
    webhook_timestamp: WebhookTimestamp,
    webhook_signature: WebhookSignature,
    x_bfl_signature: BflSignature = None,
    x_webhook_secret: WebhookSecret = None,
) -> None:
    """A task has reached a state that its webhook reports. Delivered at least once; the order is not guaranteed."""
