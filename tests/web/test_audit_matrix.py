"""Every route that changes something leaves a record in the audit, or this page says why it does not."""

from dataclasses import dataclass, field
from typing import Any

import httpx

from app.transitions.audit import Action
from app.twin import Faults
from app.web.model_schemas import MODEL_PATH
from tests.browsing import look, signed_in
from tests.receivers import HOST, ended, receiver, stored_with_webhook
from tests.web.routes.test_jobs import make_dead_letters
from tests.web.test_access_matrix import PERIOD, _routes
from tests.web.test_budgets import lost
from tests.world import World

USER = "a-user"
HOOK = f"https://{HOST}/hooks"
_TASK = "a new task is a record itself, with its key"
_SESSION = "a session acts for its key, whose actions are recorded"
_PROVIDER = "the provider acts, and its callback is stored as evidence"
EXEMPT = {
    ("POST", "/v1/tasks"): _TASK,
    ("POST", f"/v1/{MODEL_PATH}"): _TASK,
    ("POST", f"/flux/v1/{MODEL_PATH}"): _TASK,
    ("POST", "/openai/v1/images/generations"): _TASK,
    ("POST", "/openai/v1/images/edits"): _TASK,
    ("POST", "/new"): _TASK,
    ("POST", "/session"): _SESSION,
    ("POST", "/session/end"): _SESSION,
    ("POST", "/callbacks/{submission_id}/{token}"): _PROVIDER,
    ("POST", "/callbacks/reachability/check/{token}"): "it changes nothing",
}
API = {
    ("POST", "/v1/tasks/{task_id}/cancel"): Action.TASK_CANCELLED,
    ("POST", "/v1/tasks/{task_id}/resubmit"): Action.TASK_RESUBMITTED,
    ("POST", "/v1/tasks/{task_id}/settle"): Action.TASK_SETTLED,
    ("DELETE", "/v1/tasks/{task_id}"): Action.TASK_ERASED,
    ("DELETE", "/v1/users/{user:path}"): Action.USER_ERASED,
    ("POST", "/v1/deliveries/{delivery_id}/replay"): Action.DELIVERY_REPLAYED,
    ("POST", "/v1/deliveries/replay"): Action.DELIVERY_REPLAYED,
    ("POST", "/v1/endpoints/test"): Action.ENDPOINT_TESTED,
    ("POST", "/v1/endpoints/{endpoint_id}/resume"): Action.ENDPOINT_RESUMED,
    ("POST", "/v1/jobs/held/{job_id}/requeue"): Action.JOB_REQUEUED,
    ("POST", "/v1/jobs/held/requeue"): Action.JOB_REQUEUED,
    ("POST", "/v1/applications"): Action.APPLICATION_CREATED,
    ("PATCH", "/v1/applications/{application_id}"): Action.APPLICATION_CHANGED,
    ("POST", "/v1/applications/{application_id}/keys"): Action.KEY_CREATED,
    ("DELETE", "/v1/applications/{application_id}"): Action.APPLICATION_DISABLED,
    ("POST", "/v1/keys"): Action.KEY_CREATED,
    ("PATCH", "/v1/keys/{key_id}"): Action.KEY_CHANGED,
    ("DELETE", "/v1/keys/{key_id}"): Action.KEY_DISABLED,
}
FORMS = {
    ("POST", "/tasks/{task_id}/ask"): Action.TASK_ASKED,
    ("POST", "/tasks/{task_id}/cancel"): Action.TASK_CANCELLED,
    ("POST", "/tasks/{task_id}/resubmit"): Action.TASK_RESUBMITTED,
    ("POST", "/tasks/{task_id}/erase"): Action.TASK_ERASED,
    ("POST", "/tasks/{task_id}/replay"): Action.DELIVERY_REPLAYED,
    ("POST", "/deliveries/test"): Action.ENDPOINT_TESTED,
    ("POST", "/deliveries/{delivery_id}/replay"): Action.DELIVERY_REPLAYED,
    ("POST", "/endpoints/{endpoint_id}/resume"): Action.ENDPOINT_RESUMED,
    ("POST", "/applications"): Action.APPLICATION_CREATED,
    ("POST", "/applications/{application_id}/change"): Action.APPLICATION_CHANGED,
    ("POST", "/applications/{application_id}/keys"): Action.KEY_CREATED,
    ("POST", "/applications/{application_id}/keys/{key_id}/revoke"): Action.KEY_DISABLED,
    ("POST", "/applications/{application_id}/disable"): Action.APPLICATION_DISABLED,
    ("POST", "/applications/{application_id}/enable"): Action.APPLICATION_CHANGED,
}


def test_each_route_that_changes_something_is_recorded_or_exempt() -> None:
    changing = {(method, path) for method, path in _routes() if method not in {"GET", "HEAD", "OPTIONS"}}

    assert {*API, *FORMS, *EXEMPT} == changing
    assert len(API) + len(FORMS) + len(EXEMPT) == len(changing)


@dataclass
class Story:
    """Requests one after the other, each of which leaves the record that the tables name."""

    world: World
    token: str = ""
    done: set[tuple[str, str]] = field(default_factory=set)

    async def api(self, method: str, path: str, **values: Any) -> httpx.Response:
        """Send a request to a route of the API. `values`: what its path names; `json` and `params` as in httpx."""
        request: dict[str, Any] = {name: values.pop(name) for name in ("json", "params") if name in values}
        address = path.replace(":path}", "}").format(**values)
        return await self._recorded((method, path), API[method, path], self.world.api, address, request)

    async def form(self, path: str, fields: dict[str, str] | None = None, **values: Any) -> httpx.Response:
        request = {"data": {"token": self.token, **(fields or {})}}
        route = ("POST", path)
        return await self._recorded(route, FORMS[route], self.world.outsider, path.format(**values), request)

    async def _recorded(
        self, route: tuple[str, str], action: Action, client: httpx.AsyncClient, address: str, request: dict[str, Any]
    ) -> httpx.Response:
        before = await self._records()
        answer = await client.request(route[0], address, **request)
        assert answer.status_code < 400, (route, answer.status_code, answer.text)
        after = await self._records()
        assert [record["action"] for record in after[: len(after) - len(before)]] == [action], route
        assert after[0]["key_id"] == "key_admin", route
        self.done.add(route)
        return answer

    async def _records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.world.api.get("/v1/audit", params={"limit": 100})).json()["records"]
        return found


async def test_each_action_leaves_one_record_with_its_actor(each_world: World) -> None:
    world = each_world
    story = Story(world)
    receiver(world)
    await on_tasks(world, story)
    await on_webhooks_and_jobs(world, story)
    await on_applications_and_keys(story)

    assert story.done == {*API, *FORMS}


async def on_tasks(world: World, story: Story) -> None:
    unknown = await lost(world, dict(world.api.headers))
    world.twin.faults = Faults()
    await story.api("POST", "/v1/tasks/{task_id}/settle", task_id=unknown, json={"cost": 0})
    story.token = (await signed_in(world)).token
    for act in ("api", "form"):
        queued, unsafe = await world.post(user=USER), await world.post(prompt="an unsafe result")
        await _act(story, act, "cancel", queued)
        await world.go_on(30)
        await _act(story, act, "resubmit", unsafe)
        if act == "api":
            await story.api("DELETE", "/v1/tasks/{task_id}", task_id=queued)
        else:
            await story.form("/tasks/{task_id}/erase", task_id=queued)
        await world.go_on(30)
    running = await world.post(user=USER)
    await world.go_on(1)
    await story.form("/tasks/{task_id}/ask", task_id=running)
    await story.api("DELETE", "/v1/users/{user:path}", user=USER)


async def _act(story: Story, act: str, verb: str, task_id: str) -> None:
    if act == "api":
        await story.api("POST", f"/v1/tasks/{{task_id}}/{verb}", task_id=task_id)
    else:
        await story.form(f"/tasks/{{task_id}}/{verb}", task_id=task_id)


async def on_webhooks_and_jobs(world: World, story: Story) -> None:
    task_id = await stored_with_webhook(world)
    (delivery,) = (await world.api.get("/v1/deliveries", params={"task_id": task_id})).json()["deliveries"]
    ids = {"delivery_id": delivery["id"], "endpoint_id": delivery["endpoint_id"], "task_id": task_id}
    await story.api("POST", "/v1/deliveries/{delivery_id}/replay", **ids)
    receiver(world, 410)
    await ended(world)
    receiver(world)
    await story.api("POST", "/v1/deliveries/replay", json=PERIOD)
    await story.api("POST", "/v1/endpoints/test", json={"webhook_url": HOOK})
    await story.api("POST", "/v1/endpoints/{endpoint_id}/resume", **ids)
    await story.form("/tasks/{task_id}/replay", {"delivery": delivery["id"]}, **ids)
    await story.form("/deliveries/{delivery_id}/replay", **ids)
    await story.form("/endpoints/{endpoint_id}/resume", {"sure": "yes"}, **ids)
    await story.form("/deliveries/test", {"url": HOOK, "sure": "yes"})
    await make_dead_letters(world, "task_1", "task_2")
    job_id = (await world.api.get("/v1/jobs/held")).json()["jobs"][0]["id"]
    await story.api("POST", "/v1/jobs/held/{job_id}/requeue", job_id=job_id)
    await story.api("POST", "/v1/jobs/held/requeue")


async def on_applications_and_keys(story: Story) -> None:
    made = (await story.api("POST", "/v1/applications", json={"name": "shop"})).json()["id"]
    budget = {"credits": 4, "period": "day"}
    await story.api("PATCH", "/v1/applications/{application_id}", application_id=made, json={"budget": budget})
    key = await story.api(
        "POST", "/v1/applications/{application_id}/keys", application_id=made, json={"name": "a key of it"}
    )
    ids = {"application_id": made, "key_id": key.json()["id"]}
    await story.form("/applications/{application_id}/keys/{key_id}/revoke", **ids)
    fields = {"name": "another key", "scope_read": "on"}
    fields["once"] = (await look(story.world, f"/applications/{made}/keys/new")).once
    await story.form("/applications/{application_id}/keys", fields, **ids)
    await story.api("DELETE", "/v1/applications/{application_id}", **ids)
    once = (await look(story.world, "/applications/new")).once
    page = await story.form("/applications", {"name": "store", "once": once})
    other = page.headers["location"].rpartition("/")[2].partition("?")[0]
    fields = {**(await look(story.world, f"/applications/{other}/change")).values, "credits": "7"}
    await story.form("/applications/{application_id}/change", fields, application_id=other)
    await story.form("/applications/{application_id}/disable", application_id=other)
    await story.form("/applications/{application_id}/enable", application_id=other)
    single = (await story.api("POST", "/v1/keys", json={"name": "a key"})).json()["id"]
    await story.api("PATCH", "/v1/keys/{key_id}", key_id=single, json={"name": "renamed"})
    await story.api("DELETE", "/v1/keys/{key_id}", key_id=single)
