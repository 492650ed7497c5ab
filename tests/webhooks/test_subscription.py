"""The webhook columns of a task, and the webhooks that a request may ask for."""

import asyncio
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from app.db.tables import tasks
from app.db.tables.tasks import Task
from app.errors import InvalidRequest
from app.params import WEBHOOK_FIELDS, Webhook
from app.webhooks import subscription
from tests.calling import everything
from tests.receivers import HOST
from tests.sockets import until
from tests.world import World

URL = "https://app.example.com/hooks/flux?tenant=7"


async def row(world: World, task_id: str) -> Task:
    found = await world.use.db.read(lambda connection: tasks.get(connection, task_id))
    assert found is not None
    return found


async def refused(world: World, **params: Any) -> dict[str, str]:
    answer = await world.api.post("/v1/tasks", json={"prompt": "a fox", **params})
    assert answer.status_code == 422, answer.text
    fields: dict[str, str] = answer.json()["fields"]
    return fields


async def test_a_webhook_is_stored_with_the_task_and_not_sent_to_the_provider(each_world: World) -> None:
    task_id = await each_world.post(webhook_url=URL, webhook_secret="hush", webhook_events=["submitted"])
    task = await row(each_world, task_id)

    assert (task.webhook_url, task.webhook_form, task.webhook_events) == (URL, "provider", ["submitted"])
    assert task.webhook_origin == "http://gateway"
    assert not task.request.as_json().keys() & set(WEBHOOK_FIELDS)
    assert subscription.unseal(each_world.use.keys, task_id, task.webhook_secret or "") == "hush"


async def test_without_a_url_nothing_is_stored(world: World) -> None:
    task = await row(world, await world.post(webhook_secret="hush"))

    assert (task.webhook_url, task.webhook_secret, task.webhook_form, task.webhook_events) == (None,) * 4


async def test_a_secret_is_stored_encrypted_and_never_shown(each_world: World) -> None:
    secret = "a secret that occurs nowhere else"
    headers = {"idempotency-key": "once"}
    body = {"prompt": "a fox", "webhook_url": URL, "webhook_secret": secret}
    answer = await each_world.api.post("/v1/tasks", json=body, headers=headers)
    kept = await each_world.use.db.read(everything)
    task = await row(each_world, answer.json()["id"])

    assert answer.json()["webhook"] == {"url": URL, "form": "provider", "events": []}
    assert secret.encode() not in kept
    assert secret not in answer.text
    assert (task.webhook_secret or "-") not in repr(task)


async def test_a_sealed_secret_can_be_unsealed_only_for_its_task(world: World) -> None:
    task = await row(world, await world.post(webhook_url=URL, webhook_secret="hush"))

    assert subscription.unseal(world.use.keys, "task_other", task.webhook_secret or "") is None


async def test_a_webhook_can_be_given_in_form_fields(world: World) -> None:
    fields = {"prompt": "a fox", "webhook_url": URL, "webhook_form": "event", "webhook_events": "submitted, stored"}
    answer = await world.api.post("/v1/tasks", files=[(name, (None, value)) for name, value in fields.items()])

    assert answer.json()["webhook"] == {"url": URL, "form": "event", "events": ["stored", "submitted"]}


async def test_an_invalid_url_is_refused_and_named(world: World) -> None:
    unusable = [
        "",
        "app.example.com",
        "ftp://app.example.com/",
        "https:///hook",
        "https://user:pass@app.example.com/",
        "https://app.example.com/#part",
        "https://app.example.com:99999/",
        "https://app.example.com/a b",
        "https://app.example.com/\n",
        "https://xn--a/",
        "https://[::1",
        "https://" + "a" * 2083,
    ]
    for url in unusable:
        assert set(await refused(world, webhook_url=url)) == {"webhook_url"}, url


async def test_blocked_and_unreachable_names_are_accepted_like_any_other(world: World) -> None:
    for host in ("localhost", "metadata.google.internal", "nobody.invalid", "app.example.com", HOST):
        assert await world.post(webhook_url=f"https://{host}/")


async def test_an_address_that_nothing_is_sent_to_is_refused(world: World) -> None:
    private = ("10.0.0.1", "169.254.169.254", "127.1", "2130706433", "0x7f000001", "[::1]", "[fe80::1]")
    for host in (*private, "[::ffff:10.0.0.1]", "224.0.0.1"):
        fields = await refused(world, webhook_url=f"https://{host}/hook")
        assert fields["webhook_url"].startswith("must be a public address"), host


NAMES: dict[str, list[str]] = {
    "inside": ["10.1.2.3"],
    "inside-and-public": ["10.1.2.3", HOST],
    "public": [HOST],
    "public-first": [HOST, "10.1.2.3"],
    "blocked": ["192.168.0.1"],
    "half-blocked": ["10.1.2.3", "192.168.0.1"],
    "empty": [],
}


def look_up(host: str, _port: int) -> list[str]:
    if host == "resolver-away":
        raise socket.gaierror(socket.EAI_AGAIN, "try again")
    if host not in NAMES and not host[0].isdecimal():
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    return NAMES.get(host, [host])


async def test_plain_http_requires_an_allowed_network(world: World) -> None:
    fields = await refused(world, webhook_url="http://10.1.2.3/hook")
    assert fields["webhook_url"].startswith("must be https")

    allowed = replace(world.use, egress_allow=(ip_network("10.0.0.0/8"),), resolve=look_up)
    for host in ("10.1.2.3", "10.1.2.3:8080", "inside", "inside-and-public", "public-first", "resolver-away"):
        await subscription.check(allowed, Webhook(webhook_url=f"http://{host}/hook"))
    says = set()
    for host in (HOST, "192.168.0.1", "public", "blocked", "half-blocked", "empty", "nobody.invalid"):
        with pytest.raises(InvalidRequest) as found:
            await subscription.check(allowed, Webhook(webhook_url=f"http://{host}/hook"))
        says.add(found.value.fields["webhook_url"])
    assert len(says) == 1  # a blocked host looks like one that does not exist
    assert says.pop().startswith("must be https: plain http is sent only to hosts")


async def test_slow_lookups_of_hosts_of_plain_http_delay_no_other_request(world: World) -> None:
    ends, begun = threading.Event(), threading.Semaphore(0)

    def slowly(host: str, port: int) -> list[str]:
        begun.release()
        ends.wait()
        return look_up(host, port)

    slow = replace(world.use, egress_allow=(ip_network("10.0.0.0/8"),), resolve=slowly)
    inside = Webhook(webhook_url="http://inside/hook")
    checks = [asyncio.create_task(subscription.check(slow, inside)) for _ in range(64)]
    for _ in range(64):
        await asyncio.to_thread(begun.acquire)
    await subscription.check(slow, Webhook(webhook_url="http://public/hook"))
    ends.set()
    await asyncio.gather(*checks)

    async def is_refused() -> bool:
        with suppress(InvalidRequest):
            await subscription.check(slow, Webhook(webhook_url="http://public/hook"))
            return False
        return True

    await until(is_refused)


async def test_a_refused_address_makes_no_default_and_no_test(each_world: World) -> None:
    url = {"webhook_url": "https://10.0.0.1/hook"}
    for path, body in (("/v1/keys", {"name": "a"}), ("/v1/applications", {"name": "a"}), ("/v1/endpoints/test", {})):
        answer = await each_world.api.post(path, json={**body, **url})
        assert (answer.status_code, list(answer.json()["fields"])) == (422, ["webhook_url"])


async def test_a_secret_that_cannot_be_used_is_refused_without_being_repeated(world: World) -> None:
    unusable = ["", " ", "two\nlines", "whsec_", "whsec_short", "whsec_not base64 at all, and long", "x" * 1025]
    for secret in unusable:
        fields = await refused(world, webhook_url=URL, webhook_secret=secret)
        assert set(fields) == {"webhook_secret"}, secret
        assert len(secret) < 10 or secret not in str(fields)


async def test_unknown_events_are_refused(world: World) -> None:
    assert set(await refused(world, webhook_url=URL, webhook_events=["submitted", "painted"])) == {"webhook_events.1"}
