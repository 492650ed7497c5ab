"""The pages `/deliveries` and `/deliveries/{id}`: webhooks and their endpoints, with replay, test and resume."""

import json
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app import ids
from app.db.tables import endpoints as endpoint_rows
from app.db.tables.deliveries import DeliveryState
from app.errors import NotFound
from app.rules.scopes import Scope
from app.web.auth import ResourcesDep
from app.web.pages.access import FormDep, VisitorDep
from app.web.pages.questions import Question, ask_once
from app.web.pages.render import PageRoute, render
from app.web.pages.session import see_other
from app.web.path_ids import DeliveryId, EndpointId
from app.web.problems import invalid
from app.web.routes import deliveries, endpoints
from app.web.routes.endpoints import EndpointTest

_SHOWN = 40
_MAX_ENDPOINTS = 50

router = APIRouter(route_class=PageRoute)

DONE = {
    "replay": "The webhook is sent again.",
    "test": "A test is sent. Its outcome appears below.",
    "resume": "The endpoint is active again, and its due webhooks are sent.",
}
_TEST = Question(
    "Send a test?",
    "A webhook of the kind “test” is sent to this address, signed as the others are. If it is accepted, a paused "
    "endpoint of this address is active again.",
    "Send the test",
)
_RESUME = Question(
    "Resume this endpoint?",
    "All its webhooks that are due are sent at once. If it still fails, it is paused again.",
    "Resume the endpoint",
)


class Filters(BaseModel):
    model_config = ConfigDict(extra="ignore")

    state: DeliveryState | Annotated[str, Field(pattern="^$")] = ""
    before: Annotated[str, Field(pattern=rf"^$|{ids.pattern('dlv')}")] = ""
    done: str = ""


@router.get("/deliveries")
async def show_deliveries(use: ResourcesDep, visitor: VisitorDep, filters: Annotated[Filters, Query()]) -> Response:
    state = DeliveryState(filters.state) if filters.state else None
    page = await deliveries.list_deliveries(use, visitor.caller, state, None, None, filters.before or None, _SHOWN)
    targets = await endpoints.list_endpoints(use, visitor.caller, None, None, _MAX_ENDPOINTS)
    kept = {"state": str(filters.state)} if filters.state else {}
    return render(
        "deliveries.html",
        visitor=visitor,
        section="/deliveries",
        filters=filters,
        states=list(DeliveryState),
        page=page,
        endpoints=targets.endpoints,
        newest=urlencode(kept) if filters.before else None,
        older=urlencode({**kept, "before": page.next_cursor}) if page.next_cursor else None,
        done=DONE.get(filters.done),
    )


@router.get("/deliveries/{delivery_id}")
async def show_delivery(use: ResourcesDep, visitor: VisitorDep, delivery_id: DeliveryId, done: str = "") -> Response:
    delivery = await deliveries.get_delivery(use, visitor.caller, delivery_id)
    return render(
        "delivery.html",
        visitor=visitor,
        section="/deliveries",
        delivery=delivery,
        payload=json.dumps(delivery.payload, indent=2, ensure_ascii=False),
        done=DONE.get(done),
    )


@router.post("/deliveries/test")
async def test_endpoint(use: ResourcesDep, form: FormDep) -> Response:
    """Ask once, then send a test to the URL of the form, with the secret and the form of the session's API key.

    The question comes as the answer to a form, because the URL may contain a secret and must not be in an address.
    """
    form.visitor.caller.require(Scope.MANAGE)
    try:
        body = EndpointTest(webhook_url=form.fields.get("url", "").strip())
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    if form.fields.get("sure") != "yes":
        url = str(body.webhook_url)
        fields = {"url": url, "sure": "yes"}
        return ask_once(
            form.visitor, "/deliveries", _TEST, about=url, action="/deliveries/test", back="/deliveries", fields=fields
        )
    sent = await endpoints.test_endpoint(use, form.visitor.caller, form.actor, body)
    return see_other(f"/deliveries/{sent.id}?done=test")


@router.post("/deliveries/{delivery_id}/replay")
async def replay_delivery(use: ResourcesDep, form: FormDep, delivery_id: DeliveryId) -> Response:
    form.visitor.caller.require(Scope.MANAGE)
    await deliveries.replay_delivery(use, form.visitor.caller, form.actor, delivery_id)
    return see_other(f"/deliveries/{delivery_id}?done=replay")


@router.get("/endpoints/{endpoint_id}/resume")
async def ask_to_resume(use: ResourcesDep, visitor: VisitorDep, endpoint_id: EndpointId) -> Response:
    endpoint = await use.db.read(endpoint_rows.get, endpoint_id)
    if endpoint is None or visitor.application_id not in {None, endpoint.application_id}:
        raise NotFound("there is no such endpoint")
    return ask_once(
        visitor,
        "/deliveries",
        _RESUME,
        about=endpoint.url,
        action=f"/endpoints/{endpoint_id}/resume",
        back="/deliveries",
    )


@router.post("/endpoints/{endpoint_id}/resume")
async def resume_endpoint(use: ResourcesDep, form: FormDep, endpoint_id: EndpointId) -> Response:
    form.visitor.caller.require(Scope.MANAGE)
    await endpoints.resume_endpoint(use, form.visitor.caller, form.actor, endpoint_id)
    return see_other("/deliveries?done=resume")
