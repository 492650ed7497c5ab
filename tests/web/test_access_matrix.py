"""Who may do what: every route of the service with every kind of caller, from one table.

A route that has no line in `TABLE` fails. The callers: the application that owns the data, with one key for each scope;
another application, with all scopes but `admin`; an operator; and requests whose key is not valid.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import select

from app.db import Connection
from app.db.engine.feed_order import START
from app.db.tables import api_keys, applications, tasks
from app.db.tables.api_keys import NewApiKey
from app.main import create_app
from app.rules.scopes import DEFAULT, Scope
from app.rules.task import Status
from app.web.auth import digest_of
from app.web.feed import Feed
from app.web.listener import EventFilter
from app.web.model_schemas import MODEL_PATH
from tests.browsing import signed_in
from tests.receivers import receiver
from tests.world import World

SUBMIT, READ, MANAGE, METRICS, ADMIN = Scope
PROMPT = "a prompt that only its owner may read"
HOOK = "https://app.example.com/hooks/of-the-owner"
PERIOD = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}
OF_OWNER, APPLICATION = "key_" + "0" * 37, "app_" + "0" * 37
USER = "an-erased-user"


@dataclass(frozen=True)
class Line:
    """What a route answers: `own` to a caller with the scope, `foreign` to another application with the scope.

    `scope`: None needs no key, and `foreign` is then the answer to everybody. `refused`: the status without a key.
    """

    scope: Scope | str | None
    own: int = 200
    foreign: int = 404
    json: Mapping[str, Any] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    refused: int = 401
    ids: Mapping[str, str] = field(default_factory=dict)  # names of ids other than the usual ones
    is_endless: bool = False  # only its refusals are awaited; a test below is about streams


ANY = "any key"
OF_OPEN = {"task_id": "open"}
TABLE: dict[tuple[str, str], Line] = {
    ("POST", "/v1/tasks"): Line(SUBMIT, 202, 202, {"prompt": "one more"}),
    ("GET", "/v1/tasks"): Line(READ, foreign=200),
    ("GET", "/v1/tasks/{task_id}"): Line(READ),
    ("GET", "/v1/tasks/{task_id}/timeline"): Line(READ),
    ("GET", "/v1/tasks/{task_id}/events"): Line(READ, 204, query={"after": "now"}),
    ("GET", "/v1/tasks/{task_id}/image"): Line(READ),
    ("HEAD", "/v1/tasks/{task_id}/image"): Line(READ),
    ("POST", "/v1/tasks/{task_id}/cancel"): Line(MANAGE, 409),
    ("POST", "/v1/tasks/{task_id}/resubmit"): Line(SUBMIT, 409),
    ("POST", "/v1/tasks/{task_id}/settle"): Line(ADMIN, 409, json={"cost": 0}),
    ("DELETE", "/v1/tasks/{task_id}"): Line(MANAGE, 409, ids=OF_OPEN),
    ("GET", "/v1/events"): Line(READ, foreign=200, query={"after": "start"}),
    ("GET", "/v1/callbacks"): Line(READ, foreign=200),
    ("GET", "/v1/deliveries"): Line(READ, foreign=200),
    ("GET", "/v1/deliveries/{delivery_id}"): Line(READ),
    ("POST", "/v1/deliveries/{delivery_id}/replay"): Line(MANAGE, 202),
    ("POST", "/v1/deliveries/replay"): Line(MANAGE, 202, 202, PERIOD),
    ("GET", "/v1/endpoints"): Line(READ, foreign=200),
    ("GET", "/v1/endpoints/secret"): Line(MANAGE, foreign=200),
    ("POST", "/v1/endpoints/test"): Line(MANAGE, 202, 202, {"webhook_url": "https://app.example.com/test"}),
    ("POST", "/v1/endpoints/{endpoint_id}/resume"): Line(MANAGE),
    ("GET", "/v1/usage"): Line(READ, foreign=200),
    ("GET", "/v1/limits"): Line(READ, foreign=404, query={"application": "app_owner"}),
    ("GET", "/v1/models"): Line(ANY, foreign=200),
    ("GET", "/v1/models/{model_id:path}"): Line(ANY, foreign=200),
    ("GET", "/v1/keys"): Line(MANAGE, foreign=200),
    ("POST", "/v1/keys"): Line(ADMIN, 201, json={"name": "another"}),
    ("PATCH", "/v1/keys/{key_id}"): Line(MANAGE, json={"name": "renamed"}),
    ("DELETE", "/v1/keys/{key_id}"): Line(ADMIN),
    ("GET", "/v1/applications"): Line(ADMIN),
    ("POST", "/v1/applications"): Line(ADMIN, 201, json={"name": "another"}),
    ("GET", "/v1/applications/{application_id}"): Line(ADMIN),
    ("PATCH", "/v1/applications/{application_id}"): Line(ADMIN, json={"name": "renamed"}),
    ("DELETE", "/v1/applications/{application_id}"): Line(ADMIN, 409, ids={"application_id": "operators"}),
    ("POST", "/v1/applications/{application_id}/keys"): Line(ADMIN, 201, json={"name": "another"}),
    ("GET", "/v1/jobs/held"): Line(ADMIN),
    ("POST", "/v1/jobs/held/requeue"): Line(ADMIN),
    ("POST", "/v1/jobs/held/{job_id}/requeue"): Line(ADMIN, 404),
    ("GET", "/v1/get_result"): Line(READ, query={"id": "{task_id}"}, refused=403),
    ("GET", "/flux/v1/get_result"): Line(READ, query={"id": "{task_id}"}),
    ("GET", "/v1/credits"): Line(METRICS, foreign=200, refused=403),
    ("GET", "/flux/v1/credits"): Line(METRICS, foreign=200),
    ("POST", f"/v1/{MODEL_PATH}"): Line(SUBMIT, 200, 200, {"prompt": "one more"}, refused=403),
    ("POST", f"/flux/v1/{MODEL_PATH}"): Line(SUBMIT, 200, 200, {"prompt": "one more"}),
    # Requests that cannot be meant: valid ones wait for their images.
    ("POST", "/openai/v1/images/generations"): Line(SUBMIT, 400, 400, {}),
    ("POST", "/openai/v1/images/edits"): Line(SUBMIT, 400, 400, {}),
    ("GET", "/openai/v1/models"): Line(ANY, foreign=200),
    ("GET", "/openai/v1/models/{model_id:path}"): Line(ANY, foreign=200),
    ("GET", "/metrics"): Line(METRICS, foreign=200),
    ("GET", "/v1/audit"): Line(ADMIN),
    ("GET", "/v1/accounts"): Line(ADMIN),
    ("DELETE", "/v1/users/{user:path}"): Line(MANAGE, query={"application_id": "app_owner"}),
    ("GET", "/v1/erasures"): Line(READ, foreign=200),
    ("GET", "/v1/erasures/keys"): Line(READ, foreign=200),
    ("GET", "/v1/erasures/{erasure_id}"): Line(READ),
    # Pages.
    ("GET", "/"): Line(READ, foreign=200),
    ("GET", "/live"): Line(READ, foreign=200, is_endless=True),
    ("GET", "/new"): Line(READ, foreign=200),
    ("GET", "/callbacks"): Line(READ, foreign=200),
    ("GET", "/deliveries"): Line(READ, foreign=200),
    ("GET", "/deliveries/{delivery_id}"): Line(READ),
    ("GET", "/applications"): Line(READ, foreign=200),
    ("GET", "/applications/new"): Line(ADMIN),
    ("GET", "/applications/{application_id}"): Line(READ, ids={"application_id": "owner"}),
    ("GET", "/applications/{application_id}/change"): Line(ADMIN),
    ("GET", "/applications/{application_id}/disable"): Line(ADMIN),
    ("GET", "/applications/{application_id}/enable"): Line(ADMIN),
    ("GET", "/applications/{application_id}/keys/new"): Line(ADMIN),
    ("GET", "/applications/{application_id}/keys/{key_id}/revoke"): Line(ADMIN, 404),
    ("GET", "/accounts"): Line(ADMIN),
    ("GET", "/endpoints/{endpoint_id}/resume"): Line(READ),
    ("GET", "/audit"): Line(ADMIN),
    ("GET", "/settings"): Line(ADMIN),
    ("GET", "/tasks"): Line(READ, foreign=200),
    ("GET", "/tasks/live"): Line(READ, foreign=200, is_endless=True),
    ("GET", "/tasks/{task_id}"): Line(READ),
    ("GET", "/tasks/{task_id}/live"): Line(READ, is_endless=True),
    ("GET", "/tasks/{task_id}/evidence/{evidence_id}"): Line(READ, 404),
    ("GET", "/tasks/{task_id}/confirm/{action}"): Line(READ),
    ("GET", "/tasks/{task_id}/thumbnail"): Line(READ),
    ("GET", "/tasks/{task_id}/inputs/{index}"): Line(READ, 404),
    ("GET", "/tasks/{task_id}/inputs/{index}/thumbnail"): Line(READ, 404),
    # Without a key. The links and the addresses of callbacks carry a proof, which these requests lack.
    ("GET", "/results/{task_id}.{suffix}"): Line(None),
    ("HEAD", "/results/{task_id}.{suffix}"): Line(None),
    ("POST", "/callbacks/{submission_id}/{token}"): Line(None, json={}),
    ("POST", "/callbacks/reachability/check/{token}"): Line(None, foreign=200, json={}),
    ("GET", "/healthz"): Line(None, foreign=200),
    ("GET", "/readyz"): Line(None, foreign=200),
    ("GET", "/openapi.json"): Line(None, foreign=200),
    ("HEAD", "/openapi.json"): Line(None, foreign=200),
    # Forms take a session and its token, see below.
    ("POST", "/tasks/{task_id}/ask"): Line(None, foreign=401),
    ("POST", "/tasks/{task_id}/cancel"): Line(None, foreign=401),
    ("POST", "/tasks/{task_id}/resubmit"): Line(None, foreign=401),
    ("POST", "/tasks/{task_id}/erase"): Line(None, foreign=401),
    ("POST", "/tasks/{task_id}/replay"): Line(None, foreign=401),
    ("POST", "/new"): Line(None, foreign=401),
    ("POST", "/applications"): Line(None, foreign=401),
    ("POST", "/applications/{application_id}/change"): Line(None, foreign=401),
    ("POST", "/applications/{application_id}/disable"): Line(None, foreign=401),
    ("POST", "/applications/{application_id}/enable"): Line(None, foreign=401),
    ("POST", "/applications/{application_id}/keys"): Line(None, foreign=401),
    ("POST", "/applications/{application_id}/keys/{key_id}/revoke"): Line(None, foreign=401),
    ("POST", "/deliveries/test"): Line(None, foreign=401),
    ("POST", "/deliveries/{delivery_id}/replay"): Line(None, foreign=401),
    ("POST", "/endpoints/{endpoint_id}/resume"): Line(None, foreign=401),
    ("POST", "/session"): Line(None, foreign=401),
    ("POST", "/session/end"): Line(None, foreign=401),
    ("GET", "/static"): Line(None, foreign=404),
}


def _routes() -> set[tuple[str, str]]:
    app = create_app(nullcontext(cast("Any", None)), with_worker=False)
    return {
        (method, cast("Any", route).path)
        for route in app.routes
        for method in getattr(route, "methods", None) or ["GET"]
    }


@dataclass(frozen=True)
class Caller:
    name: str
    headers: Mapping[str, str]
    scopes: frozenset[Scope] | None  # None: the key is not valid
    is_owner: bool = False


def put_key(
    connection: Connection, /, name: str, at: Any, scopes: Sequence[str], application_id: str, **values: Any
) -> dict[str, str]:
    secret = f"the key {name} of {application_id}"
    key = NewApiKey(f"key_{name}", name, digest_of(secret), scopes, at, application_id=application_id, **values)
    api_keys.put(connection, key)
    return {"x-key": secret}


def put_callers(connection: Connection, at: Any) -> list[Caller]:
    first = NewApiKey("key_owner", "owner", digest_of("the first key"), ["admin"], at)
    api_keys.put(connection, first)
    api_keys.put(connection, replace(first, id="key_stranger", sha256="0" * 64))
    callers = [
        Caller(f"owner with {scope}", put_key(connection, scope, at, [scope], "app_owner"), frozenset({scope}), True)
        for scope in Scope
        if scope is not ADMIN
    ]
    everything = [scope for scope in Scope if scope is not ADMIN]
    stranger = put_key(connection, "foreign", at, everything, "app_stranger")
    admin = put_key(connection, "admin_too", at, ["admin"], "app_stranger")
    revoked = put_key(connection, "revoked", at, ["*"], "app_owner")
    api_keys.disable(connection, "key_revoked", at)
    expired = put_key(connection, "expired", at, ["*"], "app_owner", expires_at=at)
    closed = put_key(connection, "closed", at, ["*"], "app_closed")
    applications.ensure(connection, "app_closed", "closed", at)
    applications.disable(connection, "app_closed", at)
    api_keys.put(connection, replace(first, id=OF_OWNER, sha256="1" * 64, application_id="app_owner"))
    applications.ensure(connection, APPLICATION, "another", at)
    return [
        *callers,
        Caller("stranger", stranger, frozenset(everything)),
        Caller("operator", admin, frozenset(Scope), True),
        Caller("no key", {}, None),
        Caller("wrong key", {"x-key": "a key that was never made"}, None),
        Caller("revoked key", revoked, None),
        Caller("expired key", expired, None),
        Caller("key of a disabled application", closed, None),
    ]


@dataclass
class Place:
    """The data of the owner, and the texts that only the owner may see."""

    ids: dict[str, str]
    secrets: list[str]


async def furnish(world: World) -> Place:
    """Post tasks as the owner: one is stored and its webhook delivered, one is with the provider."""
    owner = {"x-key": "the first key"}
    receiver(world)
    body = {"prompt": PROMPT, "webhook_url": HOOK, "webhook_form": "event"}
    stored = (await world.outsider.post("/v1/tasks", json=body, headers=owner)).json()["id"]
    await world.work()
    await world.go_on(12)
    opened = (await world.outsider.post("/v1/tasks", json={"prompt": PROMPT}, headers=owner)).json()["id"]
    await world.work()
    erased = (await world.outsider.post("/v1/tasks", json={"prompt": PROMPT, "user": USER}, headers=owner)).json()["id"]
    await world.outsider.post(f"/v1/tasks/{erased}/cancel", headers=owner)
    erasure = (await world.outsider.delete(f"/v1/users/{USER}", headers=owner)).json()["id"]
    await world.work()
    (delivery,) = (await world.outsider.get("/v1/deliveries", headers=owner)).json()["deliveries"]
    ids = {"task_id": stored, "open": opened, "delivery_id": delivery["id"], "endpoint_id": delivery["endpoint_id"]}
    ids["erasure_id"] = erasure
    return Place(ids, [PROMPT, HOOK, *ids.values()])


def request_of(path: str, line: Line, place: Place) -> tuple[str, dict[str, Any]]:
    ids = place.ids | {
        "key_id": OF_OWNER,
        "application_id": APPLICATION,
        "operators": "app_admin",
        "owner": "app_owner",
        "job_id": "1",
        "index": "0",
        "action": "erase",
        "evidence_id": "ev_1",
        "suffix": "png",
        "submission_id": "sub_1",
        "token": "x",
        "user": USER,
    }
    ids |= {"model_id": "flux-kontext-pro"} | {name: ids[other] for name, other in line.ids.items()}
    path = path.replace(":path}", "}").replace(MODEL_PATH, "flux-kontext-pro")
    query = {name: value.format(**ids) for name, value in line.query.items()}
    return path.format(**ids), {"params": query, **({} if line.json is None else {"json": dict(line.json)})}


def expected(line: Line, caller: Caller) -> int:
    if line.scope is None:
        return line.foreign
    if caller.scopes is None:
        return line.refused
    if isinstance(line.scope, Scope) and line.scope not in caller.scopes:
        return 403
    return line.own if caller.is_owner else line.foreign


def test_each_route_has_a_line_in_the_table() -> None:
    assert _routes() == set(TABLE)


async def test_each_caller_gets_what_the_table_says(each_world: World) -> None:
    callers = await each_world.use.db.write(put_callers, each_world.clock.at)
    place = await furnish(each_world)
    wrong: list[str] = []
    for (method, path), line in TABLE.items():
        address, request = request_of(path, line, place)
        for caller in callers:
            if line.is_endless and expected(line, caller) == 200:
                continue
            answer = await each_world.outsider.request(method, address, headers=caller.headers, **request)
            wrong += judged(f"{method} {path} by {caller.name}", line, caller, answer, place)

    assert wrong == []
    assert await each_world.use.db.read(_state_of, place.ids["open"]) == (Status.SUBMITTED, None)


def judged(what: str, line: Line, caller: Caller, answer: httpx.Response, place: Place) -> Iterator[str]:
    status = expected(line, caller)
    if answer.status_code != status:
        yield f"{what}: {answer.status_code} instead of {status}"
    named = (f"`{line.scope}`", f"<code>{line.scope}</code>")
    if status == 403 and caller.scopes is not None and answer.text and not any(name in answer.text for name in named):
        yield f"{what}: the answer does not name the scope"
    if not caller.is_owner:
        asked = str(answer.request.url)
        yield from (
            f"{what}: shows {secret}" for secret in place.secrets if secret in answer.text and secret not in asked
        )


def _state_of(connection: Connection, task_id: str) -> tuple[Status, Any]:
    found = connection.execute(
        select(tasks.tasks.c.status, tasks.tasks.c.cancel_requested_at).where(tasks.tasks.c.id == task_id)
    ).one()
    return Status(found.status), found.cancel_requested_at


FORMS = {"ask": MANAGE, "cancel": MANAGE, "resubmit": SUBMIT, "erase": MANAGE, "replay": MANAGE}


@pytest.mark.parametrize("action", FORMS)
async def test_a_form_needs_the_scope_of_its_action_and_a_task_of_the_application(world: World, action: str) -> None:
    await world.use.db.write(put_callers, world.clock.at)
    place = await furnish(world)
    path = f"/tasks/{place.ids['task_id']}/{action}"
    statuses, texts = [], []
    for scopes, application_id in (([READ], "app_owner"), ([READ, FORMS[action]], "app_stranger")):
        await world.use.db.write(put_key, "visitor", world.clock.at, scopes, application_id)
        page = await signed_in(world, key=f"the key visitor of {application_id}")
        answer = await world.outsider.post(path, data={"token": page.token})
        statuses.append(answer.status_code)
        texts.append(page.text + answer.text)

    assert statuses == [403, 404]
    assert PROMPT not in texts[1]


async def test_the_forms_of_webhooks_and_new_tasks_need_their_scopes(world: World) -> None:
    await world.use.db.write(put_callers, world.clock.at)
    place = await furnish(world)
    delivery, endpoint = place.ids["delivery_id"], place.ids["endpoint_id"]
    paths = ("/deliveries/test", f"/deliveries/{delivery}/replay", f"/endpoints/{endpoint}/resume", "/new")
    statuses = {}
    for application_id, scopes in (("app_owner", [READ]), ("app_stranger", [READ, MANAGE])):
        await world.use.db.write(put_key, "visitor", world.clock.at, scopes, application_id)
        page = await signed_in(world, key=f"the key visitor of {application_id}")
        answers = [
            await world.outsider.post(path, data={"token": page.token, "url": HOOK, "sure": "yes"}) for path in paths
        ]
        statuses[application_id] = [answer.status_code for answer in answers]

    assert statuses == {"app_owner": [403, 403, 403, 403], "app_stranger": [303, 404, 404, 403]}


async def test_the_forms_of_applications_and_keys_need_the_scope_admin(world: World) -> None:
    await world.use.db.write(put_callers, world.clock.at)
    everything = [scope for scope in Scope if scope is not ADMIN]
    await world.use.db.write(put_key, "visitor", world.clock.at, everything, "app_owner")
    page = await signed_in(world, key="the key visitor of app_owner")
    here = f"/applications/{APPLICATION}"
    paths = ["/applications", f"{here}/change", f"{here}/keys", f"{here}/disable", f"{here}/enable"]
    paths.append(f"{here}/keys/{OF_OWNER}/revoke")
    before = await world.use.db.read(_keys_and_applications)
    answers = [
        await world.outsider.post(path, data={"token": page.token, "name": "x", "scope_read": "on"}) for path in paths
    ]

    assert [answer.status_code for answer in answers] == [403] * 6
    assert await world.use.db.read(_keys_and_applications) == before


def _keys_and_applications(connection: Connection) -> object:
    keys = {key.id: key.disabled_at for key in api_keys.newest(connection, 100)}
    return keys, {
        application.id: (application.name, application.disabled_at)
        for application in applications.newest(connection, 100)
    }


async def test_an_idempotency_key_belongs_to_one_application_and_to_all_its_keys(each_world: World) -> None:
    def keys(connection: Connection) -> list[dict[str, str]]:
        return [
            put_key(connection, name, each_world.clock.at, [*DEFAULT], application_id)
            for name, application_id in (("old", "app_owner"), ("new", "app_owner"), ("foreign", "app_stranger"))
        ]

    answers = []
    for headers in await each_world.use.db.write(keys):
        headers["idempotency-key"] = "the same"
        answers.append(await each_world.outsider.post("/v1/tasks", json={"prompt": PROMPT}, headers=headers))
    first, again, other = (answer.json()["id"] for answer in answers)

    assert [answer.status_code for answer in answers] == [202, 202, 202]
    assert again == first
    assert other != first


async def test_a_stream_has_the_events_of_its_application_alone(each_world: World) -> None:
    await each_world.use.db.write(put_callers, each_world.clock.at)
    own, foreign = (EventFilter(owner=f"app_{name}") for name in ("owner", "stranger"))
    async with Feed(each_world.use.db, asyncio.Event()) as feed:
        async with feed.listen(START, own) as listener, feed.listen(START, foreign) as stranger:
            place = await furnish(each_world)
            live = [await listener.next(5), await stranger.next(0.2)]
        async with feed.listen(START, own) as listener, feed.listen(START, foreign) as stranger:
            read = [await listener.next(5), await stranger.next(0.2)]

    for mine, others in (live, read):
        assert place.ids["task_id"] in {event.task_id for event in mine}
        assert others == []
