"""Independent libraries and handlers accept the signatures of webhooks, and reject anything altered."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from app import clock
from app.security.keyring import KeyRing
from app.security.sign import bfl_signature, decode_secret, encode_secret, standard_headers
from tests.receivers import SECRET, URL, ended, receiver, stored_with_webhook
from tests.world import RING_KEY, World

BODY = b'{"type":"task.stored"}'
PLAIN = "a passphrase, with spaces & an \u00e9"


def headers(secret: str = SECRET, **changes: Any) -> dict[str, str]:
    given = {"message_id": "dlv_1", "at": clock.utc_now(), "body": BODY, **changes}
    return standard_headers([decode_secret(secret)], **given)


def documented(secret: str) -> str:
    """Return a secret in the form that the documentation gives for libraries."""
    return secret if secret.startswith("whsec_") else "whsec_" + base64.b64encode(secret.encode()).decode()


@pytest.mark.parametrize("secret", [SECRET, SECRET.rstrip("="), PLAIN, "x"], ids=["whsec", "unpadded", "text", "short"])
def test_the_library_accepts_a_signed_webhook(secret: str) -> None:
    assert Webhook(documented(secret)).verify(BODY, headers(secret)) == json.loads(BODY)
    assert encode_secret(decode_secret(secret)).rstrip("=") == documented(secret).rstrip("=")


@pytest.mark.parametrize(
    "tamper",
    [
        lambda given: (BODY + b" ", given),
        lambda given: (BODY.replace(b"stored", b"failed"), given),
        lambda given: (BODY, {**given, "webhook-id": "dlv_2"}),
        lambda given: (BODY, {**given, "webhook-timestamp": str(int(given["webhook-timestamp"]) + 1)}),
        lambda given: (BODY, {**given, "webhook-signature": "v1," + "A" * 43 + "="}),
        lambda given: (BODY, {**given, "webhook-signature": given["webhook-signature"].replace("v1,", "v2,")}),
        lambda given: (BODY, {name: value for name, value in given.items() if name != "webhook-signature"}),
        lambda given: (BODY, {name: value for name, value in given.items() if name != "webhook-timestamp"}),
        lambda given: (BODY, {name: value for name, value in given.items() if name != "webhook-id"}),
        lambda _: (BODY, headers(at=clock.utc_now() - timedelta(minutes=6))),
        lambda _: (BODY, headers(at=clock.utc_now() + timedelta(minutes=6))),
        lambda _: (BODY, headers(PLAIN)),
    ],
    ids=[
        *("longer", "other body", "other id", "other time", "made up", "other version"),
        *("unsigned", "no time", "no id", "old", "from the future", "other secret"),
    ],
)
def test_the_library_refuses_each_tampered_variant(
    tamper: Callable[[dict[str, str]], tuple[bytes, dict[str, str]]],
) -> None:
    body, given = tamper(headers())

    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, given)


def test_the_signature_is_that_of_the_specification_s_example() -> None:
    # From the specification's repository, as its libraries test themselves.
    at = datetime.fromtimestamp(1614265330, UTC)
    key = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    given = standard_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}')

    assert given["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


# A handler written from the provider's webhook guide, without knowledge of Fluxhook.


def bfl_handler(body: bytes, given: dict[str, str], secret: str) -> str:
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, given["x-bfl-signature"]):
        raise PermissionError
    message = json.loads(body)
    if message["status"] == "Ready":
        return str(message["result"]["sample"])
    return f"{message['error']}: {message['message']}"


@pytest.mark.parametrize("secret", [SECRET, PLAIN], ids=["whsec", "text"])
async def test_handlers_of_both_signatures_accept_a_delivery(world: World, secret: str) -> None:
    world.clock.at = clock.utc_now()
    heard = receiver(world)
    task_id = await stored_with_webhook(world, webhook_secret=secret)
    body, given = heard.bodies[0], dict(heard.requests[0].headers)

    assert f"/results/{task_id}.png?" in bfl_handler(body, given, secret)
    assert Webhook(documented(secret)).verify(body, given)["id"] == task_id
    with pytest.raises(PermissionError):
        bfl_handler(body + b" ", given, secret)


@pytest.mark.parametrize("secret", [SECRET, "their own secret", PLAIN])
async def test_the_secret_goes_along_verbatim_as_in_the_provider_s_own_webhooks(world: World, secret: str) -> None:
    """BFL's SDK compares this header with the secret, and refuses a webhook without it."""
    heard = receiver(world)
    await ended(world, webhook_secret=secret)
    (request,) = heard.requests
    carried = dict(request.scope["headers"])[b"x-webhook-secret"]

    assert hmac.compare_digest(carried, secret.encode())


async def test_the_secret_of_the_api_key_goes_along_too(world: World) -> None:
    heard = receiver(world)
    await world.api.patch("/v1/keys/key_admin", json={"webhook_secret": SECRET})
    await ended(world)

    assert heard.requests[0].headers["x-webhook-secret"] == SECRET


async def test_a_test_delivery_carries_its_secret(world: World) -> None:
    heard = receiver(world)
    await world.api.post("/v1/endpoints/test", json={"webhook_url": URL, "webhook_secret": SECRET})
    await world.work()

    assert heard.requests[0].headers["x-webhook-secret"] == SECRET


@pytest.mark.parametrize(
    ("task", "use"),
    [
        ({"webhook_secret": SECRET, "webhook_form": "event"}, {}),
        ({"webhook_secret": SECRET}, {"send_webhook_secret": False}),
        ({"webhook_secret": " within blanks "}, {}),
        ({}, {}),
    ],
    ids=["event form", "turned off", "not verbatim in HTTP", "no secret"],
)
async def test_otherwise_no_secret_goes_along(world: World, task: dict[str, Any], use: dict[str, Any]) -> None:
    heard = receiver(world)
    world.use = replace(world.use, **use)
    await ended(world, **task)

    assert "x-webhook-secret" not in heard.requests[0].headers
    assert heard.requests[0].headers["webhook-signature"]


async def test_a_handler_for_the_provider_understands_a_failure(world: World) -> None:
    heard = receiver(world)
    await ended(world, webhook_secret=PLAIN)

    assert bfl_handler(heard.bodies[0], dict(heard.requests[0].headers), PLAIN) == "cancelled: the task was cancelled"


async def test_without_a_secret_a_delivery_is_signed_with_the_secret_of_the_api_key(world: World) -> None:
    world.clock.at = clock.utc_now()
    heard = receiver(world)
    await ended(world)
    given = dict(heard.requests[0].headers)
    secret = (await world.api.get("/v1/endpoints/secret")).json()["secret"]

    assert "x-bfl-signature" not in given
    assert Webhook(secret).verify(heard.bodies[0], given)


async def test_after_a_key_rotation_receivers_with_the_old_and_the_new_secret_accept_a_delivery(world: World) -> None:
    world.clock.at = clock.utc_now()
    heard = receiver(world)
    new = KeyRing(("a-newer-key-of-at-least-32-characters", RING_KEY))
    world.use = replace(world.use, keys=new)
    await ended(world)
    given = dict(heard.requests[0].headers)

    for key in new.webhook_keys("key_admin"):
        assert Webhook(encode_secret(key)).verify(heard.bodies[0], given)


async def test_each_attempt_has_a_new_signature_and_the_same_id(world: World) -> None:
    heard = receiver(world, 500, 200)
    await ended(world, webhook_secret=SECRET)
    await world.go_on(20)
    first, second = (each.headers for each in heard.requests)

    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) >= 5
    assert first["webhook-signature"] != second["webhook-signature"]
    assert first["x-bfl-signature"] == second["x-bfl-signature"] == bfl_signature(SECRET, heard.bodies[1])


async def test_a_webhook_is_json_with_a_user_agent(world: World) -> None:
    heard = receiver(world)
    await ended(world)
    given = heard.requests[0].headers

    assert heard.requests[0].method == "POST"
    assert (given["content-type"], given["user-agent"]) == ("application/json", "fluxhook")
    assert json.loads(heard.bodies[0])["status"] == "Error"
