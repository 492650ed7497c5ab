"""Webhook deliveries: list, inspect and replay them."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field, model_validator

from app import ids
from app.db import Connection
from app.db.queries.deliveries import DeliveryFilter, DeliveryRef, failed_between, newest
from app.db.tables import deliveries, delivery_attempts, endpoints, tasks
from app.db.tables.deliveries import Delivery, DeliveryState
from app.db.tables.delivery_attempts import DeliveryAttempt
from app.errors import NotFound
from app.params import UtcInstant
from app.transitions import audit
from app.transitions.audit import Action
from app.web.auth import ActorDep, ManagerDep, ReaderDep, ResourcesDep
from app.web.body import REFUSALS, described, json_body
from app.web.known_query import KnownQuery
from app.web.paging import page_of
from app.web.path_ids import DeliveryId
from app.web.problems import USUAL_ERRORS, responses
from app.webhooks import outbox, payload

router = APIRouter(prefix="/v1/deliveries", tags=["webhooks"])

MAX_REPLAYED = 10_000
_ENDPOINT_ID = ids.pattern("ep")
_ERRORS_OF_ONE = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)


class DeliveryView(BaseModel):
    """A webhook for one endpoint. Its id is the `webhook-id` header of every attempt."""

    id: str
    endpoint_id: str
    url: str
    task_id: Annotated[str | None, Field(description="Null for a test and for `budget.warning`.")]
    about: Annotated[str, Field(description="The task state that the delivery reports, `budget.warning`, or `test`.")]
    form: str
    state: DeliveryState
    detail: Annotated[str | None, Field(description="What was wrong with the last attempt.")]
    tries: Annotated[int, Field(description="Attempts since the delivery was created or last replayed.")]
    planned_at: datetime
    due_at: Annotated[datetime | None, Field(description="Time of the next attempt; null once the delivery has ended.")]
    ended_at: datetime | None


class AttemptView(BaseModel):
    at: datetime
    http_status: int | None
    error: Annotated[
        str | None,
        Field(description="`unreachable`, `timeout`, `broken`, or `sealed`: the secret can no longer be decrypted."),
    ]
    latency_ms: Annotated[int | None, Field(description="Null if no connection was made.")]
    answer: Annotated[str, Field(description="The first 4 KiB of the response body, as UTF-8.")]


class DeliveryDetail(DeliveryView):
    payload: Annotated[dict[str, Any], Field(description="The body, without the image link that each attempt adds.")]
    attempts: list[AttemptView]


class DeliveryList(BaseModel):
    deliveries: list[DeliveryView]
    next_cursor: Annotated[
        str | None, Field(description="Pass it as `cursor` to get the next page; null on the last page.")
    ]


class Replay(BaseModel):
    """Selects the deliveries that were given up in a period."""

    model_config = {"extra": "forbid"}

    begin: Annotated[UtcInstant, Field(alias="from")]
    end: Annotated[UtcInstant, Field(alias="to", description="Exclusive.")]
    endpoint_id: Annotated[str | None, Field(pattern=_ENDPOINT_ID, description="Only to this endpoint.")] = None

    @model_validator(mode="after")
    def _in_order(self) -> "Replay":
        if self.end <= self.begin:
            raise ValueError("`to` must come after `from`")
        return self


class Replayed(BaseModel):
    replayed: int
    more: Annotated[
        bool,
        Field(
            description=f"True if more deliveries match: a request replays at most {MAX_REPLAYED}. Repeat the request."
        ),
    ]


@router.get("", responses=USUAL_ERRORS, dependencies=[KnownQuery])
async def list_deliveries(
    use: ResourcesDep,
    caller: ReaderDep,
    state: Annotated[DeliveryState | None, Query(description="Only those in this state.")] = None,
    task_id: Annotated[
        str | None, Query(pattern=ids.pattern("task"), description="Only deliveries of this task.")
    ] = None,
    endpoint_id: Annotated[str | None, Query(pattern=_ENDPOINT_ID, description="Only to this endpoint.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("dlv"), description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of deliveries in the page.")] = 20,
) -> DeliveryList:
    """List deliveries, newest first: those of the calling application, or of all with the scope `admin`."""
    query = DeliveryFilter(caller.owner, state, task_id, endpoint_id)
    rows = await use.db.read(newest, query, limit=limit + 1, before=cursor)
    page, next_cursor = page_of(rows, limit)
    return DeliveryList(deliveries=[delivery_view(row) for row in page], next_cursor=next_cursor)


@router.post(
    "/replay", status_code=HTTPStatus.ACCEPTED, responses={**USUAL_ERRORS, **REFUSALS}, openapi_extra=described(Replay)
)
async def replay_failed(
    use: ResourcesDep, caller: ManagerDep, actor: ActorDep, body: Annotated[Replay, Depends(json_body(Replay))]
) -> Replayed:
    """Replay the deliveries that were given up in a period, each from the start of its retry schedule.

    Includes the deliveries of the calling application, or of all with the scope `admin`.
    """
    query = DeliveryFilter(caller.owner, endpoint_id=body.endpoint_id)

    def restart(connection: Connection) -> list[DeliveryRef]:
        failed = failed_between(connection, body.begin, body.end, query, MAX_REPLAYED + 1)
        now, count = use.now(), min(len(failed), MAX_REPLAYED)
        _restart(connection, failed[:MAX_REPLAYED], now)
        if count:
            audit.record(connection, actor, Action.DELIVERY_REPLAYED, audit.ALL, now, {"deliveries": count})
        return failed

    failed = await use.db.write(restart)
    return Replayed(replayed=min(len(failed), MAX_REPLAYED), more=len(failed) > MAX_REPLAYED)


@router.get("/{delivery_id}", responses=_ERRORS_OF_ONE)
async def get_delivery(use: ResourcesDep, caller: ReaderDep, delivery_id: DeliveryId) -> DeliveryDetail:
    """Get a delivery with its attempts and its payload."""

    def read(connection: Connection) -> tuple[Delivery, str | None, list[DeliveryAttempt]]:
        delivery = _get(connection, caller.owner, delivery_id)
        task = None if delivery.task_id is None else tasks.get(connection, delivery.task_id)
        prompt = None if task is None else task.request.prompt
        return delivery, prompt, delivery_attempts.of_delivery(connection, delivery_id)

    delivery, prompt, attempts = await use.db.read(read)
    return DeliveryDetail(
        **dict(delivery_view(delivery)),
        payload=payload.with_prompt(delivery.payload, prompt),
        attempts=[_attempt_view(attempt) for attempt in attempts],
    )


@router.post("/{delivery_id}/replay", status_code=HTTPStatus.ACCEPTED, responses=_ERRORS_OF_ONE)
async def replay_delivery(
    use: ResourcesDep, caller: ManagerDep, actor: ActorDep, delivery_id: DeliveryId
) -> DeliveryView:
    """Send a delivery again from the start of its retry schedule, even if it was delivered. It keeps its id.

    If the endpoint is paused or gone, the delivery waits until the endpoint is resumed.
    """

    def restart(connection: Connection) -> Delivery:
        delivery = _get(connection, caller.owner, delivery_id)
        now = use.now()
        _restart(connection, [DeliveryRef(delivery_id, delivery.endpoint_id)], now)
        audit.record(connection, actor, Action.DELIVERY_REPLAYED, delivery_id, now)
        return _get(connection, caller.owner, delivery_id)

    return delivery_view(await use.db.write(restart))


def delivery_view(delivery: Delivery) -> DeliveryView:
    names = ("id", "endpoint_id", "url", "task_id", "form", "state", "detail", "tries", "planned_at", "ended_at")
    due_at = delivery.due_at if delivery.state is DeliveryState.WAITING else None
    return DeliveryView(**{name: getattr(delivery, name) for name in names}, about=delivery.event, due_at=due_at)


def _attempt_view(attempt: DeliveryAttempt) -> AttemptView:
    return AttemptView(
        at=attempt.began_at,
        http_status=attempt.http_status,
        error=attempt.error,
        latency_ms=attempt.latency_ms,
        answer=attempt.answer.decode(errors="replace"),
    )


def _get(connection: Connection, owner: str | None, delivery_id: str) -> Delivery:
    """Return a delivery of the application `owner`, or of any if it is None. Raises NotFound."""
    delivery = deliveries.get(connection, delivery_id)
    if delivery is None or owner not in {None, delivery.application_id}:
        raise NotFound("there is no such delivery")
    return delivery


def _restart(connection: Connection, refs: list[DeliveryRef], now: datetime) -> None:
    """Restart deliveries and wake their endpoints."""
    deliveries.restart(connection, [ref.id for ref in refs], now)
    outbox.enqueue_rounds(connection, endpoints.get_many(connection, {ref.endpoint_id for ref in refs}), now)
