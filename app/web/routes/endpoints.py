"""Webhook endpoints: list, test and resume them, and get their signing secret."""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from app import ids
from app.db import Connection
from app.db.tables import api_keys, applications, deliveries, endpoints
from app.db.tables.deliveries import Delivery
from app.db.tables.endpoints import Endpoint, EndpointState
from app.errors import NotFound
from app.params import Webhook, WebhookForm, WebhookSecret, WebhookUrl
from app.rules.limits import Rate
from app.security import sign
from app.transitions import audit, limits
from app.transitions.audit import Action
from app.web.auth import ActorDep, ManagerDep, ReaderDep, ResourcesDep
from app.web.body import REFUSALS, described, json_body
from app.web.known_query import KnownQuery
from app.web.paging import page_of
from app.web.path_ids import EndpointId
from app.web.problems import USUAL_ERRORS, responses
from app.web.routes.deliveries import DeliveryView, delivery_view
from app.webhooks import outbox, subscription

router = APIRouter(prefix="/v1/endpoints", tags=["webhooks"])


class EndpointView(BaseModel):
    """A URL of an application that receives webhooks."""

    id: str
    url: str
    state: Annotated[EndpointState, Field(description="`paused`: it failed for three days. `gone`: it answered 410.")]
    failures: Annotated[int, Field(description="Failed attempts since the last successful one, without tests.")]
    failing_since_at: datetime | None
    rests_until_at: Annotated[
        datetime | None, Field(description="After a failure, nothing but a test is sent before this time.")
    ]
    stopped_at: datetime | None
    created_at: datetime


class EndpointList(BaseModel):
    endpoints: list[EndpointView]
    next_cursor: Annotated[
        str | None, Field(description="Pass it as `cursor` to get the next page; null on the last page.")
    ]


class EndpointTest(BaseModel):
    """The URL to test. The secret and the form replace those of the key."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    webhook_url: WebhookUrl
    webhook_secret: WebhookSecret | None = None
    webhook_form: WebhookForm | None = None


class SigningSecret(BaseModel):
    secret: Annotated[str, Field(description="In the format of the Standard Webhooks libraries: `whsec_` and base64.")]


@router.get("", responses=USUAL_ERRORS, dependencies=[KnownQuery])
async def list_endpoints(
    use: ResourcesDep,
    caller: ReaderDep,
    state: Annotated[EndpointState | None, Query(description="Only those in this state.")] = None,
    cursor: Annotated[
        str | None, Query(pattern=ids.pattern("ep"), description="The `next_cursor` of the previous page.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Maximum number of endpoints in the page.")] = 20,
) -> EndpointList:
    """List endpoints, newest first: those of the calling application, or of all with the scope `admin`."""

    def read(connection: Connection) -> list[Endpoint]:
        return endpoints.newest(connection, limit=limit + 1, before=cursor, state=state, owner=caller.owner)

    page, next_cursor = page_of(await use.db.read(read), limit)
    return EndpointList(endpoints=[_view(row) for row in page], next_cursor=next_cursor)


@router.get("/secret", responses=responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE))
async def get_signing_secret(use: ResourcesDep, caller: ManagerDep) -> SigningSecret:
    """Get the secret that signs the deliveries of the application if neither the task nor the key has a secret."""
    return SigningSecret(
        secret=sign.encode_secret(use.keys.webhook_keys(applications.first_key_id(caller.application_id))[0])
    )


@router.post(
    "/test",
    status_code=HTTPStatus.ACCEPTED,
    responses={**USUAL_ERRORS, **REFUSALS, **responses(HTTPStatus.TOO_MANY_REQUESTS)},
    openapi_extra=described(EndpointTest),
)
async def test_endpoint(
    use: ResourcesDep,
    caller: ManagerDep,
    actor: ActorDep,
    body: Annotated[EndpointTest, Depends(json_body(EndpointTest))],
) -> DeliveryView:
    """Send one test delivery, without retries. If it succeeds, a paused or gone endpoint becomes active again.

    A failed test does not count as a failure of the endpoint, but a 410 response makes the endpoint gone.
    """
    webhook = Webhook.model_validate(dict(body))
    await subscription.check(use, webhook)
    now = use.now()
    delivery_id = ids.new_id("dlv", now)

    def plan(connection: Connection) -> Delivery | None:
        allowed = limits.of_key(connection, use.limits, caller.key_id)
        limits.count_request(connection, allowed.limits, allowed.application_id, Rate.TESTS, now)
        key = api_keys.get(connection, caller.key_id)
        secret = subscription.secret_of(use.keys, delivery_id, webhook, key)
        form = body.webhook_form or (key and key.webhook.form) or "provider"
        outbox.plan_test(connection, delivery_id, caller.application_id, body.webhook_url, form, secret, now)
        audit.record(connection, actor, Action.ENDPOINT_TESTED, delivery_id, now)
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
    use: ResourcesDep, caller: ManagerDep, actor: ActorDep, endpoint_id: EndpointId
) -> EndpointView:
    """Resume an endpoint that is paused, gone or backing off. Its due deliveries are sent at once."""

    def resume(connection: Connection) -> Endpoint:
        endpoint = endpoints.lock(connection, endpoint_id)
        if endpoint is None or caller.owner not in {None, endpoint.application_id}:
            raise NotFound("there is no such endpoint")
        endpoints.resume(connection, endpoint_id)
        resumed = endpoints.get_many(connection, {endpoint_id})
        now = use.now()
        outbox.enqueue_rounds(connection, resumed, now)
        audit.record(connection, actor, Action.ENDPOINT_RESUMED, endpoint_id, now)
        return resumed[0]

    return _view(await use.db.write(resume))


def _view(endpoint: Endpoint) -> EndpointView:
    fields = {name: getattr(endpoint, name) for name in EndpointView.model_fields if name != "rests_until_at"}
    return EndpointView(**fields, rests_until_at=endpoint.backoff_until)
