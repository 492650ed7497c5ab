"""The addresses that are told of tasks: how they fare, a test of one, and going on with one that was paused."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app import ids
from app.db import Connection
from app.db.tables import api_keys, deliveries, endpoints
from app.db.tables.deliveries import Delivery
from app.db.tables.endpoints import Endpoint, EndpointState
from app.errors import NotFound
from app.params import Webhook, WebhookForm, WebhookSecret, WebhookUrl
from app.security import sign
from app.web.auth import CallerDep, ResourcesDep
from app.web.body import REFUSALS, described, json_body
from app.web.problems import responses
from app.web.routes.deliveries import DeliveryView, delivery_view
from app.webhooks import outbox, subscription

router = APIRouter(prefix="/v1/endpoints", tags=["webhooks"])

_ERRORS = responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)


class EndpointView(BaseModel):
    """An address that tasks of an API key were told to."""

    id: str
    url: str
    state: Annotated[EndpointState, Field(description="`paused`: it failed for three days. `gone`: it answered 410.")]
    failures: Annotated[int, Field(description="Attempts that failed since the last that did not, without tests.")]
    failing_since_at: datetime | None
    rests_until_at: Annotated[datetime | None, Field(description="After a failure nothing is tried before this.")]
    stopped_at: datetime | None
    created_at: datetime


class EndpointList(BaseModel):
    endpoints: list[EndpointView]
    next_cursor: Annotated[str | None, Field(description="Give it as `cursor` for the endpoints before these.")]


class EndpointTest(BaseModel):
    """What to test: an address, and what to sign with and write in place of the key's own choice."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    webhook_url: WebhookUrl
    webhook_secret: WebhookSecret | None = None
    webhook_form: WebhookForm | None = None


class SigningSecret(BaseModel):
    secret: Annotated[str, Field(description="As the Standard Webhooks libraries take it.")]


def _known_form(endpoint_id: Annotated[str, Path(description="The endpoint's id.")]) -> str:
    if not ids.is_id("ep", endpoint_id):
        raise NotFound("there is no such endpoint")
    return endpoint_id


@router.get("", responses=_ERRORS)
async def list_endpoints(
    use: ResourcesDep,
    asking: CallerDep,
    state: Annotated[EndpointState | None, Query(description="Only those in this state.")] = None,
    cursor: Annotated[str | None, Query(pattern=r"^ep_[0-9a-v]{37}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> EndpointList:
    """Endpoints, newest first: those of the calling key, or of all keys for one with the scope `*`."""

    def read(connection: Connection) -> list[Endpoint]:
        return endpoints.newest(connection, limit=limit + 1, before=cursor, state=state, key_id=asking.owner)

    found = await use.db.read(read)
    page = [_view(each) for each in found[:limit]]
    return EndpointList(endpoints=page, next_cursor=page[-1].id if len(found) > limit else None)


@router.get("/secret", responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE))
async def get_signing_secret(use: ResourcesDep, asking: CallerDep) -> SigningSecret:
    """What deliveries of the calling key are signed with where neither the task nor the key has a secret."""
    return SigningSecret(secret=sign.spelled_out(use.keys.webhook_keys(asking.key_id)[0]))


@router.post(
    "/test",
    status_code=HTTPStatus.ACCEPTED,
    responses={**_ERRORS, **REFUSALS},
    openapi_extra=described(EndpointTest),
)
async def test_endpoint(
    use: ResourcesDep, asking: CallerDep, given: Annotated[EndpointTest, Depends(json_body(EndpointTest))]
) -> DeliveryView:
    """Send one delivery that is about nothing, once. If it arrives, an endpoint that was paused or gone goes on.

    If it fails, that does not count against the endpoint, unless it is answered with 410.
    """
    wanted = Webhook.model_validate(dict(given))
    subscription.check(use, wanted)
    now = use.now()
    delivery_id = ids.new_id("dlv", now)

    def plan(connection: Connection) -> Delivery | None:
        key = api_keys.get(connection, asking.key_id)
        secret = subscription.secret_of(use.keys, delivery_id, wanted, key)
        form = given.webhook_form or (key and key.webhook_form) or "provider"
        outbox.plan_test(connection, delivery_id, asking.key_id, given.webhook_url, form, secret, now)
        return deliveries.get(connection, delivery_id)

    planned = await use.db.write(plan)
    if planned is None:
        raise NotFound("there is no such delivery")
    return delivery_view(planned)


@router.post(
    "/{endpoint_id}/resume",
    responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def resume_endpoint(
    use: ResourcesDep, asking: CallerDep, endpoint_id: Annotated[str, Depends(_known_form)]
) -> EndpointView:
    """Go on with an endpoint that was paused, is gone or rests: what waits for it is tried at once."""

    def resume(connection: Connection) -> Endpoint:
        found = endpoints.lock(connection, endpoint_id)
        if found is None or asking.owner not in {None, found.key_id}:
            raise NotFound("there is no such endpoint")
        endpoints.resume(connection, endpoint_id)
        going = endpoints.these(connection, {endpoint_id})
        outbox.wake(connection, going, use.now())
        return going[0]

    return _view(await use.db.write(resume))


def _view(endpoint: Endpoint) -> EndpointView:
    shown = {name: getattr(endpoint, name) for name in EndpointView.model_fields if name != "rests_until_at"}
    return EndpointView(**shown, rests_until_at=endpoint.backoff_until)
