"""What applications were told: look, and have it told again."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field, model_validator

from app import ids
from app.db import Connection
from app.db.tables import deliveries, delivery_attempts, endpoints
from app.db.tables.deliveries import Delivery, DeliveryFilter, DeliveryState
from app.db.tables.delivery_attempts import DeliveryAttempt
from app.errors import NotFound
from app.params import InstantGiven
from app.web.auth import CallerDep, ResourcesDep
from app.web.body import REFUSALS, described, json_body
from app.web.problems import responses
from app.webhooks import outbox

router = APIRouter(prefix="/v1/deliveries", tags=["webhooks"])

MAX_REPLAYED = 10_000
_ENDPOINT_ID = r"^ep_[0-9a-v]{37}$"
_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)
_ERRORS_OF_ONE = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)


class DeliveryView(BaseModel):
    """One thing that an application is told; its id is the `webhook-id` of each attempt."""

    id: str
    endpoint_id: str
    url: str
    task_id: Annotated[str | None, Field(description="Null for a test.")]
    about: Annotated[str, Field(description="The state that the task had come to, or `test`.")]
    form: str
    state: DeliveryState
    detail: Annotated[str | None, Field(description="What was wrong with the last attempt.")]
    tries: Annotated[int, Field(description="Since it was planned, or last replayed.")]
    planned_at: datetime
    due_at: Annotated[datetime | None, Field(description="When it is tried next; null once it has ended.")]
    ended_at: datetime | None


class AttemptView(BaseModel):
    at: datetime
    http_status: int | None
    error: Annotated[
        str | None,
        Field(description="`unreachable`, `timeout`, `broken`, or `sealed`: its secret cannot be read any more."),
    ]
    latency_ms: Annotated[int | None, Field(description="Null when no connection was made.")]
    answer: Annotated[str, Field(description="The first 4 KiB of the answer's body, as UTF-8.")]


class DeliveryDetail(DeliveryView):
    payload: Annotated[dict[str, Any], Field(description="What is sent, before its link to the image is made.")]
    attempts: list[AttemptView]


class DeliveryList(BaseModel):
    deliveries: list[DeliveryView]
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the deliveries before these.")]


class Replay(BaseModel):
    """All deliveries that were given up in a time."""

    model_config = {"extra": "forbid"}

    begin: Annotated[InstantGiven, Field(alias="from")]
    end: Annotated[InstantGiven, Field(alias="to", description="Not included.")]
    endpoint_id: Annotated[str | None, Field(pattern=_ENDPOINT_ID, description="Only those to this endpoint.")] = None

    @model_validator(mode="after")
    def _in_order(self) -> "Replay":
        if self.end <= self.begin:
            raise ValueError("`to` must come after `from`")
        return self


class Replayed(BaseModel):
    replayed: int
    more: Annotated[bool, Field(description=f"{MAX_REPLAYED} are replayed at once: ask again for the rest.")]


def _known_form(delivery_id: Annotated[str, Path(description="The delivery's id.")]) -> str:
    if not ids.is_id("dlv", delivery_id):
        raise NotFound("there is no such delivery")
    return delivery_id


DeliveryId = Annotated[str, Depends(_known_form)]


@router.get("", responses=_ERRORS)
async def list_deliveries(
    use: ResourcesDep,
    asking: CallerDep,
    state: Annotated[DeliveryState | None, Query(description="Only those in this state.")] = None,
    task_id: Annotated[str | None, Query(pattern=r"^task_[0-9a-v]{37}$", description="Only of this task.")] = None,
    endpoint_id: Annotated[str | None, Query(pattern=_ENDPOINT_ID, description="Only to this one.")] = None,
    cursor: Annotated[str | None, Query(pattern=r"^dlv_[0-9a-v]{37}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DeliveryList:
    """Deliveries, newest first: those of the calling key, or of all keys for one with the scope `*`."""
    wanted = DeliveryFilter(asking.owner, state, task_id, endpoint_id)
    found = await use.db.read(lambda each: deliveries.newest(each, wanted, limit=limit + 1, before=cursor))
    page = [delivery_view(each) for each in found[:limit]]
    return DeliveryList(deliveries=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.post(
    "/replay", status_code=HTTPStatus.ACCEPTED, responses={**_ERRORS, **REFUSALS}, openapi_extra=described(Replay)
)
async def replay_failed(
    use: ResourcesDep, asking: CallerDep, given: Annotated[Replay, Depends(json_body(Replay))]
) -> Replayed:
    """Try again, from the start of their schedule, all deliveries that were given up in a time."""
    wanted = DeliveryFilter(asking.owner, endpoint_id=given.endpoint_id)

    def restart(connection: Connection) -> list[tuple[str, str]]:
        found = deliveries.failed_between(connection, given.begin, given.end, wanted, MAX_REPLAYED + 1)
        _restart(connection, found[:MAX_REPLAYED], use.now())
        return found

    found = await use.db.write(restart)
    return Replayed(replayed=min(len(found), MAX_REPLAYED), more=len(found) > MAX_REPLAYED)


@router.get("/{delivery_id}", responses=_ERRORS_OF_ONE)
async def get_delivery(use: ResourcesDep, asking: CallerDep, delivery_id: DeliveryId) -> DeliveryDetail:
    """One delivery with its attempts."""

    def read(connection: Connection) -> tuple[Delivery, list[DeliveryAttempt]]:
        found = _of(connection, asking.owner, delivery_id)
        return found, delivery_attempts.of_delivery(connection, delivery_id)

    found, made = await use.db.read(read)
    tried = [_attempt_view(each) for each in made]
    return DeliveryDetail(**dict(delivery_view(found)), payload=dict(found.payload), attempts=tried)


@router.post("/{delivery_id}/replay", status_code=HTTPStatus.ACCEPTED, responses=_ERRORS_OF_ONE)
async def replay_delivery(use: ResourcesDep, asking: CallerDep, delivery_id: DeliveryId) -> DeliveryView:
    """Try a delivery again from the start of its schedule, also one that arrived; it keeps its id.

    While its endpoint is paused or gone it waits until that is resumed.
    """

    def restart(connection: Connection) -> Delivery:
        found = _of(connection, asking.owner, delivery_id)
        _restart(connection, [(delivery_id, found.endpoint_id)], use.now())
        return _of(connection, asking.owner, delivery_id)

    return delivery_view(await use.db.write(restart))


def delivery_view(delivery: Delivery) -> DeliveryView:
    names = ("id", "endpoint_id", "url", "task_id", "form", "state", "detail", "tries", "planned_at", "ended_at")
    due_at = delivery.due_at if delivery.state is DeliveryState.WAITING else None
    return DeliveryView(**{name: getattr(delivery, name) for name in names}, about=delivery.event, due_at=due_at)


def _attempt_view(each: DeliveryAttempt) -> AttemptView:
    return AttemptView(
        at=each.began_at,
        http_status=each.http_status,
        error=each.error,
        latency_ms=each.latency_ms,
        answer=each.answer.decode(errors="replace"),
    )


def _of(connection: Connection, owner: str | None, delivery_id: str) -> Delivery:
    """A delivery that this owner may see. Raises NotFound."""
    found = deliveries.get(connection, delivery_id)
    if found is None or owner not in {None, found.key_id}:
        raise NotFound("there is no such delivery")
    return found


def _restart(connection: Connection, found: list[tuple[str, str]], now: datetime) -> None:
    deliveries.restart(connection, [delivery_id for delivery_id, _ in found], now)
    outbox.wake(connection, endpoints.these(connection, {endpoint_id for _, endpoint_id in found}), now)
